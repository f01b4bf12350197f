"""Every number served over gRPC equals numpy's on the tensors that the trainer itself dumped, and none is missing.

The trainer dumps with code that knows nothing of Ikkuna (probe/examples/dump.cc); steps, micro-batches and calls are those
that its loop counts. A series that is served for a tensor that was not dumped, or the other way round, fails the test.
"""

import numpy as np

import harness
from numbers_reference import METRICS, DumpedTensors, difference, subscriber

MODULE_KINDS = ["weights", "biases", "weight_gradients", "bias_gradients", "weight_updates", "bias_updates", "activations",
                "layer_gradients", "raw_weight_gradients", "exp_avg", "exp_avg_sq", "buffers"]
META_KINDS = ["input_data", "input_labels", "network_output"]
RATIOS = [("weight_updates", "weights"), ("bias_updates", "biases"), ("weight_gradients", "weights"),
          ("layer_gradients", "activations")]
MESSAGE_MEANS = ["weights_norm2", "weight_gradients_norm2", "activations_mean", "weight_updates_weights_ratio"]
# Of the evaluation pass that follows training: its tag, the kinds and metrics watched in it.
TEST_KINDS = ["activations", "input_data", "input_labels", "network_output"]
TEST_METRICS = ["mean", "variance", "norm3", "kurtosis"]
STEPS = 3
LEARNING_RATE = 0.003
# Running statistics are those that the pass of the step began with, as the weights; moments are those that its update left.
PUBLISHED_AS = {"buffers_before": "buffers", "buffers_after": None, "exp_avg_before": None, "exp_avg_after": "exp_avg",
                "exp_avg_sq_before": None, "exp_avg_sq_after": "exp_avg_sq", "momentum_buffer_before": None,
                "momentum_buffer_after": "exp_avg"}


class NumbersTest(harness.Site):
    longMessage = False

    def watch(self, *trainer_arguments):
        """Trains under a daemon to which everything is subscribed; returns what it serves and what was dumped."""
        kinds = MODULE_KINDS + META_KINDS
        texts = [subscriber(metric, kind) for metric in METRICS for kind in kinds]
        texts += [f"ratio({a}, {b})" for a, b in RATIOS] + ["loss()", "train_accuracy()"]
        texts += [f"message_mean({topic})" for topic in MESSAGE_MEANS] + ["learning_rate()"]
        texts += [subscriber(metric, kind + ", tag=test") for metric in TEST_METRICS for kind in TEST_KINDS]
        texts += ["loss(tag=test)", "test_accuracy()"]
        self.start_daemon("--no-default", "--budget", "off", *(word for text in texts for word in ("--subscribe", text)))
        dump = self.root / "dump"
        trainer = self.start_trainer("--max-steps", str(STEPS), "--dump-steps", str(STEPS), "--dump-dir", dump,
                                     "--test-images", "700", "--budget", "off", "--seed", "7", "--lr", str(LEARNING_RATE),
                                     *trainer_arguments, IKKUNA_WAIT_MS="120000", IKKUNA_ARENA_MB="1024")
        self.follow(trainer, 4000)
        trainer.expect_success()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.accounting.dropped, 0, str(producer))
        served = self.client.everything()
        self.assert_sinks_account()
        self.stop_daemon()
        self.assert_nothing_left()
        return served, DumpedTensors(dump, PUBLISHED_AS)

    def expected(self, tensors):
        """{(tag, module, param, topic): {step: (metric, flat array, value)}}"""
        wanted = {}

        def want(tag, module, param, topic, step, metric, x, value):
            wanted.setdefault((tag, module, param, topic), {})[step] = (metric, x, float(value))

        flat = {}
        for key in tensors.keys("default") + tensors.keys("test"):
            kind, tag, module, param, step = key
            metrics = METRICS if tag == "default" else TEST_METRICS
            if kind in (MODULE_KINDS + META_KINDS if tag == "default" else TEST_KINDS):
                x = flat[key] = tensors.flat(key)
                for metric in metrics:
                    want(tag, module, param, f"{kind}_{metric}", step, metric, x, METRICS[metric](x))
        for a, b in RATIOS:
            for (kind, tag, module, param, step), x in flat.items():
                y = flat.get((b, tag, module, param, step))
                if kind == a and tag == "default" and y is not None:
                    with np.errstate(divide="ignore", invalid="ignore"):
                        value = np.sqrt(np.sum(x * x)) / np.sqrt(np.sum(y * y))
                    want(tag, module, param, f"{a}_{b}_ratio", step, "ratio", x, value)
        for topic in MESSAGE_MEANS:
            for step in range(STEPS):
                values = [series[step][2] for name, series in wanted.items()
                          if name[0] == "default" and name[3] == topic and step in series]
                want("default", "", "", f"{topic}_message_mean", step, "message_mean", np.array(values), np.mean(values))
        for (_, tag, _, _, step) in tensors.keys("default", "loss") + tensors.keys("test", "loss"):
            losses = np.array([float(array) for array in tensors.arrays(("loss", tag, "", "", step))])
            want(tag, "", "", "loss", step, "loss", losses, np.mean(losses))
            outputs = tensors.arrays(("network_output", tag, "", "", step))
            labels = tensors.arrays(("input_labels", tag, "", "", step))
            right = np.concatenate([np.argmax(output, axis=1) == label for output, label in zip(outputs, labels)])
            topic = "train_accuracy" if tag == "default" else "test_accuracy"
            want(tag, "", "", topic, step, topic, right, np.mean(right))
        return wanted

    def compare(self, served, wanted):
        served = {(tag, module, param, topic): samples for (tag, _, module, param, topic), samples in served.items()}
        errors = [f"not served: {name}" for name in wanted if name not in served]
        errors += [f"served, but not dumped: {name}" for name in served if name not in wanted]
        compared = 0
        for name, samples in wanted.items():
            got = served.get(name, {})
            if got and got.keys() != samples.keys():
                errors.append(f"{name}: steps {sorted(got)} instead of {sorted(samples)}")
            for step in samples.keys() & got.keys():
                metric, x, value = samples[step]
                compared += 1
                text = difference(metric, x, value, got[step])
                if text:
                    errors.append(f"{name} step {step} (n={x.size}): {text}")
        self.assertFalse(errors, f"{len(errors)} of {compared} values:\n" + "\n".join(sorted(errors)[:60]))
        print(f"{compared} values of {len(wanted)} series compared", flush=True)

    def check(self, *trainer_arguments):
        served, tensors = self.watch(*trainer_arguments)
        rates = served.pop(("default", "model", "", "group0", "learning_rate"))
        self.assertEqual(rates, dict.fromkeys(range(STEPS), LEARNING_RATE))
        self.compare(served, self.expected(tensors))

    def test_fc_sgd(self):
        self.check("--model", "fc")

    def test_fc_adam_accumulated_and_clipped(self):
        self.check("--model", "fc", "--optimizer", "adam", "--accumulate", "2", "--clip", "0.5", "--batch-size", "32")

    def test_fc_frozen_layer(self):
        self.check("--model", "fc", "--freeze", "layers.0", "--batch-size", "16")

    def test_tiny_double(self):
        self.check("--model", "tiny", "--dtype", "double", "--optimizer", "adam")

    def test_tiny_half(self):
        self.check("--model", "tiny", "--dtype", "half")

    def test_tiny_bfloat16(self):
        self.check("--model", "tiny", "--dtype", "bfloat16")

    def test_alexnet_sgd_accumulated(self):
        self.check("--model", "alexnet-mini", "--accumulate", "2", "--batch-size", "32")

    def test_alexnet_adam(self):
        self.check("--model", "alexnet-mini", "--optimizer", "adam")

    def test_resnet_sgd_accumulated(self):
        self.check("--model", "resnet-small", "--accumulate", "2", "--batch-size", "16")

    def test_resnet_adam(self):
        self.check("--model", "resnet-small", "--optimizer", "adam", "--batch-size", "32")


if __name__ == "__main__":
    harness.main()
