"""Whatever becomes of the daemon, training goes on bit for bit as without a probe, and every record is accounted for."""

import os
import pathlib
import signal

import losses
from harness import main, wait_until
from losses import SUBSCRIBERS

STEPS = 500


class HarmlessTest(losses.LossSite):
    def start_watched(self, **environment):
        return super().start_watched("--max-steps", str(STEPS), "--test-images", "500", **environment)

    def start_endless(self, **environment):
        """One that goes on until it is ended, however long a daemon takes."""
        return super().start_watched("--max-steps", "100000", "--epochs", "1000", "--test-images", "0", **environment)

    def assert_same_losses(self, steps=STEPS):
        return super().assert_same_losses(steps)

    def loss_steps(self, steps=STEPS):
        return super().loss_steps(self.bare(steps))

    def wait_for_loss(self, step):
        """Until the daemon has the loss of that step, or of a later one."""
        wait_until(lambda: any(max(samples, default=-1) >= step for samples in self.client.everything(topic="loss").values()),
                   lambda: f"no loss of step {step} or later comes: {self.client.status()}")

    def trainer_has_a_socket(self):
        links = []
        for link in pathlib.Path(f"/proc/{self.trainer.pid}/fd").iterdir():
            try:
                links.append(os.readlink(link))
            except FileNotFoundError:
                pass  # closed meanwhile
        return any(link.startswith("socket:") for link in links)

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
        self.start_watched(IKKUNA_WAIT_MS="120000")
        self.assert_same_losses()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.accounting.lost_in_daemon + producer.accounting.killed, 0)
        if producer.accounting.dropped == 0:
            self.assertEqual(self.loss_steps(), list(range(STEPS)))
        self.finish()

    def test_daemon_100_steps_late(self):
        self.start_endless()
        self.wait_for_step(100)
        self.start_daemon(*SUBSCRIBERS)
        self.wait_for_loss(100)
        self.end_read_trainer()
        made = self.assert_same_losses(None)
        producer = self.settled_producer()
        self.assert_accounts(producer)
        steps = self.loss_steps(made)
        self.assertGreaterEqual(steps[0], 100)
        self.assertEqual(steps[-1], made - 1)
        self.assertEqual(producer.steps_total, made)
        self.assertLess(producer.steps_while_connected, made - 99)
        self.assertLess(producer.coverage, 1)
        self.finish()

    def test_daemon_killed_and_restarted(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_endless(IKKUNA_WAIT_MS="120000")
        self.wait_for_step(120)
        wait_until(lambda: self.sink("store").written, "nothing is kept")
        self.daemon.signal(signal.SIGKILL)
        self.daemon.wait()
        self.client.close()
        wait_until(lambda: not self.trainer_has_a_socket(), "the probe does not hear that the daemon is gone")
        gone = self.steps_made()  # of the two that are under way by now it may say what was asked before
        self.wait_for_step(gone + 100)
        self.start_daemon(*SUBSCRIBERS)
        self.wait_for_loss(gone + 100)
        self.end_read_trainer()
        made = self.assert_same_losses(None)
        producer = self.settled_producer()
        self.assert_accounts(producer)
        steps = self.loss_steps(made)
        self.assertEqual(steps[0], 0)
        self.assertFalse([step for step in steps if gone + 1 < step < gone + 100], "steps that no daemon was there to see")
        self.assertEqual(steps[-1], made - 1)
        self.assertGreater(len([step for step in steps if step >= gone + 100]), 0)
        self.finish()

    def test_trainer_killed(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA_WAIT_MS="120000")
        self.wait_for_step(200)
        self.trainer.signal(signal.SIGKILL)
        self.assertEqual(self.trainer.wait(), -signal.SIGKILL)
        got = self.losses.read_text().splitlines()
        self.assertEqual(got, self.bare(STEPS)[:len(got)])
        producer = self.settled_producer("DIED")
        self.assert_accounts(producer)
        self.assertLessEqual(producer.accounting.killed, 1)
        steps = self.loss_steps()
        self.assertGreater(len(steps), 0)
        self.assertLessEqual(steps[-1], len(got))
        # The daemon goes on with the next one.
        self.start_watched(IKKUNA_WAIT_MS="120000")
        self.trainer.expect_success()
        wait_until(lambda: len(self.client.status().producers) == 2, "the next trainer is not seen")
        self.finish()

    def test_daemon_hangs(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA_WAIT_MS="120000")
        self.wait_for_step(100)
        self.daemon.signal(signal.SIGSTOP)
        self.assert_same_losses()
        self.daemon.signal(signal.SIGCONT)
        producer = self.settled_producer("FINISHED", "DIED")
        self.assert_accounts(producer)
        self.assertGreaterEqual(len(self.loss_steps()), 90)
        self.finish()


if __name__ == "__main__":
    main()
