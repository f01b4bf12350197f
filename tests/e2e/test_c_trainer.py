"""The examples in C, which know the public header alone: what they publish arrives as they computed it, and watching changes
nothing of what they compute."""

import math
import os
import pathlib
import re

import harness
from harness import SOURCE, main, wait_until

BUILD = pathlib.Path(os.environ.get("IKKUNA_BUILD_DIR", SOURCE / "build/release"))
STEPS = 400
RATE = 0.2


class CTrainerTest(harness.Site):
    def values(self, topic, module="", param="", tag="default"):
        found = self.client.everything(run="circle")
        return found[(tag, "mlp", module, param, topic)]

    def run_mlp(self, **environment):
        job = self.start([BUILD / "examples/mlp", STEPS], **environment)
        job.expect_success()
        return [line for line in job.log().splitlines() if not line.startswith("ikkuna")]

    def test_what_a_trainer_in_c_publishes_is_what_it_computed(self):
        subscribers = ["loss", "norm(weights)", "norm(weight_gradients)", "norm(weight_updates)", "norm(bias_updates)",
                       "norm(bias_gradients)", "mean(activations)", "norm(layer_gradients)", "train_accuracy", "test_accuracy",
                       "loss(tag=test)", "learning_rate", "kurtosis(weights)", "max(activations)"]
        flags = [word for text in subscribers for word in ("--subscribe", text)]
        self.start_daemon("--no-default", "--budget", "off", *flags)
        watched = self.run_mlp(IKKUNA_WAIT_MS="120000")
        wait_until(lambda: self.client.producer() and self.client.producer().state == harness.pb.PRODUCER_STATE_FINISHED,
                   lambda: f"the run is not over: {self.client.producer()}")
        loss = self.values("loss")
        self.assertEqual(sorted(loss), list(range(STEPS)))
        for step, text in re.findall(r"step (\d+)  loss ([\d.]+)", "\n".join(watched)):
            self.assertAlmostEqual(loss[int(step) - 1], float(text), places=6)
        self.assertLess(loss[STEPS - 1], 0.6 * loss[0])
        for module in ("fc1", "fc2"):
            for kind, name in (("weight", "weight"), ("bias", "bias")):
                gradients, updates = self.values(f"{kind}_gradients_norm2", module, name), self.values(
                    f"{kind}_updates_norm2", module, name)
                self.assertEqual(len(gradients), STEPS)
                for step, gradient in gradients.items():
                    self.assertTrue(math.isclose(updates[step], RATE * gradient, rel_tol=1e-4, abs_tol=1e-7), (module, step))
            self.assertEqual(len(self.values("activations_mean", module)), STEPS)
            self.assertEqual(len(self.values("layer_gradients_norm2", module)), STEPS)
            self.assertEqual(len(self.values("weights_kurtosis", module, "weight")), STEPS)
        self.assertTrue(all(value <= 1 for value in self.values("activations_max", "fc1").values()))
        self.assertGreater(self.values("train_accuracy")[STEPS - 1], 0.7)
        for rate in self.values("learning_rate", param="all").values():
            self.assertAlmostEqual(rate, RATE, places=7)
        self.assertEqual(sorted(self.values("test_accuracy", tag="test")), [199, 399])
        self.assertEqual(sorted(self.values("loss", tag="test")), [199, 399])
        accounting = self.client.producer().accounting
        self.assertEqual((accounting.dropped, accounting.handled), (0, accounting.attempted))
        self.stop_daemon()
        # Nothing of what it computes depends on who looks.
        self.assertEqual(self.run_mlp(), watched)
        self.assertEqual(self.run_mlp(IKKUNA="off"), watched)
        self.assert_nothing_left()

    def test_arrays_of_every_form(self):
        self.start_daemon("--no-default", "--subscribe", "mean(activations)", "--subscribe", "max(activations)", "--subscribe",
                          "norm(activations, order=3)")
        job = self.start([BUILD / "examples/arrays"], IKKUNA_WAIT_MS="120000")
        job.expect_success()
        wait_until(lambda: self.client.producer() and self.client.producer().state == harness.pb.PRODUCER_STATE_FINISHED,
                   lambda: f"the run is not over: {self.client.producer()}")
        found = self.client.everything()
        forms = {"transposed": lambda i: [i + k for k in range(24)],
                 "strided": lambda i: [i + 6 * r + c for r in range(4) for c in (0, 2, 4)],
                 "expanded": lambda i: [i + c for c in range(6)] * 100,
                 "halves": lambda i: [i + k for k in range(24)],
                 "scaled": lambda i: [(i + k) / 1024 for k in range(24)]}
        for module, elements in forms.items():
            for step in range(10):
                x = elements(step)
                for topic, expected in (("activations_mean", sum(x) / len(x)), ("activations_max", max(x)),
                                        ("activations_norm3", sum(v ** 3 for v in x) ** (1 / 3))):
                    value = found[("default", "net", module, "", topic)][step]
                    self.assertTrue(math.isclose(value, expected, rel_tol=1e-6), (module, topic, step, value, expected))
        self.stop_daemon()
        self.assert_nothing_left()


if __name__ == "__main__":
    main()
