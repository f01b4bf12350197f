"""Whatever becomes of the daemon, training goes on bit for bit as without a probe, and every record is accounted for."""

import pathlib
import re
import signal
import sqlite3
import subprocess
import tempfile

import harness
from harness import BIN, wait_until

# Dropout draws from LibTorch's generator in each step: a single number drawn by the probe would show in every loss.
TRAINER = ["--model", "alexnet-mini", "--batch-size", "32", "--seed", "11", "--max-steps", "500", "--test-images", "500",
           "--budget", "off"]
STEPS = 500
SUBSCRIBERS = ["--no-default", "--budget", "off", "--subscribe", "loss()"] + [
    word for kind in ("weights", "weight_gradients", "activations", "layer_gradients", "weight_updates")
    for metric in ("mean({})", "norm({}, order=2)", "norm({}, order=3)") for word in ("--subscribe", metric.format(kind))]


class HarmlessTest(harness.Site):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory(prefix="ikkuna-e2e-bare-") as folder:
            path = pathlib.Path(folder) / "losses"
            subprocess.run([BIN / "ikkuna-train", "--threads", "1", *TRAINER, "--no-probe", "--losses", path], check=True,
                           stdout=subprocess.DEVNULL, timeout=harness.WATCHDOG_S)
            cls.bare = path.read_text().splitlines()
        assert len(cls.bare) == STEPS and all(re.fullmatch(r"-?0x[0-9a-f.]+p[-+]\d+", line) for line in cls.bare)

    def start_watched(self, **environment):
        self.losses = self.root / "losses"
        self.trainer = self.start_trainer(*TRAINER, "--losses", self.losses, **environment)
        return self.trainer

    def wait_for_step(self, step):
        """Until the trainer has made so many steps."""
        def reached():
            if self.losses.exists() and self.losses.read_bytes().count(b"\n") >= step:
                return True
            assert self.trainer.running(), self.trainer.log()
            return False
        wait_until(reached, f"step {step} is not reached")

    def assert_same_losses(self):
        self.trainer.expect_success()
        got = self.losses.read_text().splitlines()
        different = [step for step in range(min(len(got), STEPS)) if got[step] != self.bare[step]]
        self.assertEqual((len(got), different[:5]), (STEPS, []))

    def loss_steps(self):
        """Steps of which the loss is in the store; each loss is the one that the trainer wrote."""
        [samples] = [samples for name, samples in self.client.everything(topic="loss").items() if name[0] == "default"]
        for step, value in samples.items():
            self.assertEqual(value.hex(), float.fromhex(self.bare[step]).hex(), f"step {step}")
        return sorted(samples)

    def finish(self):
        """Ends the daemon well; nothing is left of anybody, and the store is sound."""
        self.assert_sinks_account()
        self.stop_daemon()
        self.assert_nothing_left()
        [path] = self.data.rglob("*.db")
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as store:
            self.assertEqual(store.execute("PRAGMA integrity_check").fetchall(), [("ok",)])

    def test_no_daemon(self):
        self.start_watched()
        self.assert_same_losses()
        self.assert_nothing_left()
        self.assertFalse(self.meeting.exists() and any(self.meeting.iterdir()), "the trainer left something behind")

    def test_switched_off(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA="off")
        self.assert_same_losses()
        self.assertEqual(len(self.client.status().producers), 0)
        self.assertEqual(self.client.series(), [])
        self.finish()

    def test_watched_from_the_first_step(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA_WAIT_MS="10000")
        self.assert_same_losses()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.accounting.lost_in_daemon + producer.accounting.killed, 0)
        if producer.accounting.dropped == 0:
            self.assertEqual(self.loss_steps(), list(range(STEPS)))
        self.finish()

    def test_daemon_100_steps_late(self):
        self.start_watched()
        self.wait_for_step(100)
        self.start_daemon(*SUBSCRIBERS)
        self.assert_same_losses()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        steps = self.loss_steps()
        self.assertGreaterEqual(steps[0], 100)
        self.assertEqual(steps[-1], STEPS - 1)
        self.assertEqual(producer.steps_total, STEPS)
        self.assertLess(producer.steps_while_connected, STEPS - 99)
        self.assertLess(producer.coverage, 1)
        self.finish()

    def test_daemon_killed_and_restarted(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA_WAIT_MS="10000")
        self.wait_for_step(120)
        self.daemon.signal(signal.SIGKILL)
        self.daemon.wait()
        self.wait_for_step(220)
        self.start_daemon(*SUBSCRIBERS)
        self.assert_same_losses()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        steps = self.loss_steps()
        self.assertEqual(steps[0], 0)
        self.assertFalse([step for step in steps if 150 < step < 220], "steps that no daemon was there to see")
        self.assertEqual(steps[-1], STEPS - 1)
        self.assertGreater(len([step for step in steps if step >= 220]), 0)
        self.finish()

    def test_trainer_killed(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA_WAIT_MS="10000")
        self.wait_for_step(200)
        self.trainer.signal(signal.SIGKILL)
        self.assertEqual(self.trainer.wait(), -signal.SIGKILL)
        got = self.losses.read_text().splitlines()
        self.assertEqual(got, self.bare[:len(got)])
        producer = self.settled_producer("DIED")
        self.assert_accounts(producer)
        self.assertLessEqual(producer.accounting.killed, 1)
        steps = self.loss_steps()
        self.assertGreater(len(steps), 0)
        self.assertLessEqual(steps[-1], len(got))
        # The daemon goes on with the next one.
        self.start_watched(IKKUNA_WAIT_MS="10000")
        self.trainer.expect_success()
        wait_until(lambda: len(self.client.status().producers) == 2, "the next trainer is not seen")
        self.finish()

    def test_daemon_hangs(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA_WAIT_MS="10000")
        self.wait_for_step(100)
        self.daemon.signal(signal.SIGSTOP)
        self.assert_same_losses()
        self.daemon.signal(signal.SIGCONT)
        producer = self.settled_producer("FINISHED", "DIED")
        self.assert_accounts(producer)
        self.assertGreaterEqual(len(self.loss_steps()), 90)
        self.finish()


if __name__ == "__main__":
    harness.main()
