"""What needs whole tensors is numpy's of the tensors that the trainer itself dumped; histograms in TensorBoard as well.

Two micro-batches a step: they are one histogram, though they have ranges of their own, and one batch of which a unit is
dead or not; of what compares steps the last of them counts.
"""

import json
import pathlib
import subprocess

import numpy as np

import harness
from harness import BIN
from numbers_reference import DumpedTensors

KINDS = ["weights", "weight_gradients", "activations", "layer_gradients", "network_output", "input_labels"]
PUBLISHED_AS = {"exp_avg_before": None, "exp_avg_sq_before": None, "momentum_buffer_before": None}
MATRICES = ["weights", "weight_gradients"]
BINS = 50
ROUNDS = 100  # of power iteration, from which the greatest of close singular values comes out a little too small
STEPS = 3


class WholeTensorsTest(harness.Site):
    def watch(self, *trainer_arguments):
        texts = [f"histogram({kind}, bins={BINS}); cosine({kind}); distance_from_start({kind})" for kind in KINDS]
        texts.append("dead_fraction(activations)")
        texts += [f"spectral_norm({kind}, iterations={ROUNDS}); stable_rank({kind}, iterations={ROUNDS})" for kind in MATRICES]
        self.start_daemon("--no-default", "--budget", "off", "--threads", "2",
                          *(word for text in texts for word in ("--subscribe", text)))
        dump = self.root / "dump"
        trainer = self.start_trainer("--max-steps", str(STEPS), "--dump-steps", str(STEPS), "--dump-dir", dump,
                                     "--test-images", "0", "--budget", "off", "--accumulate", "2", *trainer_arguments,
                                     IKKUNA_WAIT_MS="120000", IKKUNA_ARENA_MB="1024")
        self.follow(trainer, 200)  # the daemon copies what waits for the last micro-batch
        trainer.expect_success()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.accounting.dropped, 0, str(producer))
        self.assertEqual([str(miss) for miss in producer.missing], [])
        status = self.client.status()
        self.stop_daemon()
        return DumpedTensors(dump, PUBLISHED_AS), status.tensorboard_directory

    def kept(self):
        """{(module, param, topic): {step: value}}"""
        command = [BIN / "ikkuna", "--data-dir", self.data, "read", "*", "--json"]
        listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return {(one["key"]["module"], one["key"]["param"], one["key"]["topic"]):
                {sample["step"]: sample["value"] for sample in one["samples"]} for one in listed}

    def in_tensorboard(self, logdir):
        from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, EventAccumulator

        found = {}
        for folder in sorted({path.parent for path in logdir.rglob("*tfevents*")}):
            accumulator = EventAccumulator(str(folder), size_guidance={HISTOGRAMS: 0})
            accumulator.Reload()
            for name in accumulator.Tags()["histograms"]:
                found[name] = {event.step: event.histogram_value for event in accumulator.Histograms(name)}
        return found

    def compare_steps(self, tensors, kept):
        """cosine and distance_from_start; returns how many."""
        last = {key: tensors.arrays(key)[-1].astype(np.float64).ravel() for key in tensors.keys("default")
                if key[0] in KINDS}
        compared = 0
        for (kind, tag, module, param, step), x in last.items():
            if step == 0:
                continue
            first, before = last[kind, tag, module, param, 0], last[kind, tag, module, param, step - 1]
            lengths = np.linalg.norm(x) * np.linalg.norm(before)
            for topic, value in (("distance_from_start", np.linalg.norm(x - first)),
                                 ("cosine", x @ before / lengths if lengths else float("nan"))):
                got = kept[module, param, f"{kind}_{topic}"][step]
                np.testing.assert_allclose(float(got), value, rtol=1e-6, atol=1e-9, err_msg=f"{topic} of {kind} {module} {step}")
                compared += 1
        return compared

    def compare_units(self, tensors, kept):
        """dead_fraction; returns how many."""
        compared = 0
        for key in tensors.keys("default", "activations"):
            arrays = tensors.arrays(key)
            axis = 1 if arrays[0].ndim >= 4 else arrays[0].ndim - 1
            alive = sum((np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) != 0).any(axis=1).astype(int) for array in arrays)
            got = kept[key[2], key[3], "activations_dead_fraction"][key[4]]
            np.testing.assert_allclose(got, np.mean(alive == 0), rtol=1e-6, err_msg=str(key))
            compared += 1
        return compared

    def compare_spectra(self, tensors, kept):
        """spectral_norm and stable_rank; returns how many."""
        compared = 0
        for kind in MATRICES:
            for key in tensors.keys("default", kind):
                array = tensors.arrays(key)[-1].astype(np.float64)
                matrix = array.reshape(array.shape[0], -1)
                norm = np.linalg.norm(matrix, 2)
                got = {topic: float(kept[key[2], key[3], f"{kind}_{topic}"][key[4]]) for topic in ("spectral_norm", "stable_rank")}
                self.assertLessEqual(got["spectral_norm"], norm * (1 + 1e-6), str(key))
                self.assertGreaterEqual(got["spectral_norm"], norm * 0.99, str(key))
                rank = np.sum(matrix * matrix) / got["spectral_norm"] ** 2 if norm else float("nan")
                np.testing.assert_allclose(got["stable_rank"], rank, rtol=1e-5, err_msg=str(key))
                compared += 2
        return compared

    def check(self, *trainer_arguments):
        tensors, logdir = self.watch(*trainer_arguments)
        kept, drawn = self.kept(), self.in_tensorboard(pathlib.Path(logdir))
        others = self.compare_steps(tensors, kept) + self.compare_units(tensors, kept)
        others += self.compare_spectra(tensors, kept)
        compared = 0
        for key in tensors.keys("default"):
            kind, _, module, param, step = key
            if kind not in KINDS:
                continue
            x = tensors.flat(key)
            got = kept[module, param, f"{kind}_histogram"][step]
            name = f"{kind} {module}.{param} step {step}"
            counts, edges = np.histogram(x, bins=BINS) if x.min() < x.max() else ([0] * (BINS - 1) + [x.size], None)
            self.assertEqual(got["counts"], list(counts), name)
            self.assertEqual((got["n"], got["min"], got["max"]), (x.size, x.min(), x.max()), name)
            self.assertLessEqual(abs(got["sum"] - x.sum()), 1e-6 * np.abs(x).sum(), name)
            self.assertLessEqual(abs(got["sum_squares"] - (x * x).sum()), 1e-6 * (x * x).sum(), name)
            self.assertEqual((got["nans"], got["positive_infinities"], got["negative_infinities"]), (0, 0, 0), name)
            in_module = "/" + module + ("." + param if param else "") if module else ""
            seen = drawn[f"{kind}_histogram{in_module}"][step]
            self.assertEqual(seen.bucket, list(counts), name)
            self.assertEqual((seen.num, seen.min, seen.max), (x.size, x.min(), x.max()), name)
            if edges is not None:
                np.testing.assert_allclose(seen.bucket_limit, edges[1:], rtol=1e-6, atol=1e-6 * np.abs(edges).max(), err_msg=name)
            compared += 1
        self.assertEqual(compared + others, sum(len(steps) for steps in kept.values()), "more is kept than was dumped")
        self.assertGreater(compared, 30)
        print(f"{compared} histograms and {others} numbers compared", flush=True)

    def test_fc(self):
        self.check("--model", "fc", "--batch-size", "32")

    def test_convolutions(self):
        self.check("--model", "alexnet-mini", "--batch-size", "8")

    def test_tiny_half(self):
        self.check("--model", "tiny", "--dtype", "half")


if __name__ == "__main__":
    harness.main()
