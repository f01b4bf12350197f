"""ikkuna-train itself: the other tests rest on its losses being repeatable and on its dump being independent."""

import json
import re
import signal

import numpy as np

import harness
from harness import SOURCE, wait_until

EXAMPLES = SOURCE / "probe/examples"


class TrainerTest(harness.Site):
    def losses(self, *arguments):
        path = self.root / f"losses-{len(self.processes)}"
        self.train("--max-steps", "4", "--test-images", "0", "--batch-size", "16", "--losses", path, *arguments)
        return path.read_text().splitlines()

    def test_few_marked_lines_use_the_probe(self):
        lines = (EXAMPLES / "train.cc").read_text().splitlines()
        marked = [line for line in lines if line.endswith("// ikkuna")]
        self.assertTrue(0 < len(marked) < 10, marked)
        unmarked = [line for line in lines if re.search(r"ikkuna::|probe_|ikkuna/probe", line) and line not in marked]
        self.assertEqual(unmarked, [])

    def test_the_dump_knows_nothing_of_ikkuna(self):
        for name in ("dump.h", "dump.cc"):
            text = (EXAMPLES / name).read_text()
            included = re.findall(r'#include "([^"]+)"', text)
            self.assertEqual([i for i in included if i != "probe/examples/dump.h"], [])
            self.assertNotIn("ikkuna", text.lower())

    def test_losses_repeat_and_neither_dump_nor_probe_changes_them(self):
        for model in ("fc", "alexnet-mini", "resnet-small", "tiny"):
            with self.subTest(model=model):
                bare = self.losses("--model", model, "--no-probe")
                self.assertEqual(len(bare), 4)
                self.assertEqual(self.losses("--model", model), bare)
                self.assertEqual(self.losses("--model", model, "--dump-dir", self.root / f"dump-{model}"), bare)
                self.assertNotEqual(self.losses("--model", model, "--no-probe", "--seed", "2"), bare)

    def test_dump_is_consistent(self):
        folder = self.root / "dump"
        written = self.losses("--model", "alexnet-mini", "--dump-dir", folder, "--accumulate", "2", "--momentum", "0",
                              "--lr", "0.5", "--dump-steps", "3")
        entries = json.loads((folder / "index.json").read_text())["entries"]
        self.assertEqual({entry["step"] for entry in entries}, {0, 1, 2})

        def one(kind, step, module, param="weight"):
            [entry] = [e for e in entries if (e["kind"], e["step"], e["module"], e["param"]) == (kind, step, module, param)]
            return np.load(folder / entry["file"])

        for step in range(3):
            losses = [float(np.load(folder / e["file"])) for e in entries if e["kind"] == "loss" and e["step"] == step]
            self.assertEqual(sum(losses) / 2, float.fromhex(written[step]))
            weights = one("weights", step, "classifier.0")
            # Plain gradient descent, in float32 as LibTorch computes it.
            after = weights - np.float32(0.5) * one("weight_gradients", step, "classifier.0")
            np.testing.assert_allclose(one("weight_updates", step, "classifier.0"), after - weights, rtol=0, atol=1e-7)
            if step < 2:
                np.testing.assert_allclose(one("weights", step + 1, "classifier.0"),
                                           weights + one("weight_updates", step, "classifier.0"), rtol=0, atol=1e-7)

    def test_interrupt_ends_after_the_step(self):
        trainer = self.start_trainer("--model", "tiny", "--epochs", "100000", "--log-every", "50", "--no-probe",
                                     "--losses", self.root / "losses")
        wait_until(lambda: "step 50 " in trainer.log(), "the trainer makes no steps")
        trainer.signal(signal.SIGINT)
        trainer.expect_success()
        steps = int(re.search(r"^(\d+) steps in", trainer.log(), re.MULTILINE).group(1))
        self.assertEqual((self.root / "losses").read_text().count("\n"), steps)

    def test_missing_data_says_what_to_install(self):
        trainer = self.start_trainer("--data-dir", self.root / "nowhere")
        self.assertEqual(trainer.wait(), 1)
        self.assertIn("apt-get install dataset-fashion-mnist", trainer.log())

    def test_wrong_flags(self):
        for wrong in (["--model", "nothing"], ["--budget", "much"], ["--batch-size", "0"], ["--optimizer", "lbfgs"]):
            with self.subTest(wrong=wrong):
                trainer = self.start_trainer(*wrong)
                self.assertEqual(trainer.wait(), 2, trainer.log())
                self.assertIn(wrong[0], trainer.log())


if __name__ == "__main__":
    harness.main()
