"""Trainers whose losses are compared bit for bit with those of a run without probe."""

import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import tempfile

import harness
from harness import BIN, wait_until

# Whole tensors and statistics of five kinds at every step: far more than anybody would ask for.
SUBSCRIBERS = ["--no-default", "--budget", "off", "--subscribe", "loss()"] + [
    word for kind in ("weights", "weight_gradients", "activations", "layer_gradients", "weight_updates")
    for metric in ("mean({})", "norm({}, order=2)", "norm({}, order=3)") for word in ("--subscribe", metric.format(kind))]


def memory_kb(pid, field):
    """VmRSS, VmHWM, RssAnon ... of a process that runs; None when it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else None


def held_memory_objects(pid):
    """What a process that runs has mapped of ours, and what it has open."""
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text().count("memfd:ikkuna")
    return maps, len(os.listdir(f"/proc/{pid}/fd"))


class LossSite(harness.Site):
    """A test class whose trainer is `ikkuna-train` with the arguments TRAINER."""

    # Dropout draws from LibTorch's generator in each step: a single number drawn by the probe would show in every loss.
    TRAINER = ["--model", "alexnet-mini", "--batch-size", "32", "--seed", "11", "--budget", "off"]
    _bare = []

    @classmethod
    def bare(cls, steps):
        """Losses of the first steps without probe; run once for the longest that is asked."""
        if len(cls._bare) < steps:
            with tempfile.TemporaryDirectory(prefix="ikkuna-e2e-bare-") as folder:
                path = pathlib.Path(folder) / "losses"
                subprocess.run([BIN / "ikkuna-train", "--threads", "1", *cls.TRAINER, "--max-steps", str(steps), "--epochs",
                                "1000", "--test-images", "0", "--no-probe", "--losses", path], check=True,
                               stdout=subprocess.DEVNULL, timeout=harness.WATCHDOG_S)
                cls._bare = path.read_text().splitlines()
            assert len(cls._bare) == steps and all(re.fullmatch(r"-?0x[0-9a-f.]+p[-+]\d+", line) for line in cls._bare)
        return cls._bare[:steps]

    def start_watched(self, *arguments, **environment):
        self.losses = self.root / f"losses-{len(self.processes)}"
        self.trainer = self.start_trainer(*self.TRAINER, *arguments, "--losses", self.losses, **environment)
        return self.trainer

    def steps_made(self):
        return self.losses.read_bytes().count(b"\n") if self.losses.exists() else 0

    def wait_for_step(self, step):
        """Until the trainer has made so many steps."""
        def reached():
            if self.steps_made() >= step:
                return True
            assert self.trainer.running(), self.trainer.log()
            return False
        wait_until(reached, f"step {step} is not reached")

    def assert_same_losses(self, steps=None):
        """The trainer ends well, after `steps` steps where that is given, with the losses of a run without probe."""
        self.trainer.expect_success()
        got = self.losses.read_text().splitlines()
        if steps is not None:
            self.assertEqual(len(got), steps)
        bare = self.bare(len(got))
        self.assertEqual([step for step in range(len(got)) if got[step] != bare[step]][:5], [])
        return len(got)

    def loss_steps(self, bare):
        """Steps of which the loss is in the store; each loss is the one that the trainer wrote."""
        [samples] = [samples for name, samples in self.client.everything(topic="loss").items() if name[0] == "default"]
        for step, value in samples.items():
            self.assertEqual(value.hex(), float.fromhex(bare[step]).hex(), f"step {step}")
        return sorted(samples)

    def finish(self):
        """Ends the daemon well; nothing is left of anybody, and the store is sound."""
        self.assert_sinks_account()
        self.stop_daemon()
        self.assert_nothing_left()
        self.assert_store_is_sound(self.data)

    def assert_store_is_sound(self, data):
        paths = [path for path in data.rglob("*") if path.is_file() and path.read_bytes()[:16] == b"SQLite format 3\0"]
        self.assertTrue(paths)
        for path in paths:  # one for each run, attempt and rank, and what is a cache of them
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as store:
                self.assertEqual(store.execute("PRAGMA integrity_check").fetchall(), [("ok",)], path)

    def memory_until_the_end(self):
        """Follows the trainer to its end: {"VmHWM": [...], "RssAnon": [...]} in kB, as time went by."""
        seen = {"VmHWM": [], "RssAnon": []}

        def ended():
            for field, values in seen.items():
                values += [value for value in [memory_kb(self.trainer.pid, field)] if value]
            return not self.trainer.running()
        wait_until(ended, "the trainer does not end")
        return seen

    def end_read_trainer(self):
        """The same of one whose last steps find room: it stands until the daemon has read what it made."""
        self.trainer.signal(signal.SIGSTOP)
        wait_until(lambda: self.client.producer().accounting.in_flight <= 1, "what the trainer made is not read")
        self.trainer.signal(signal.SIGTERM)
        self.trainer.signal(signal.SIGCONT)
        self.trainer.expect_success()

    def end_trainer(self):
        """As a person does: the step under way is finished, and the exit status is good."""
        self.trainer.signal(signal.SIGTERM)
        self.trainer.expect_success()
