"""Whatever becomes of the daemon, training goes on bit for bit as without a probe, and every record is accounted for."""

import signal

import losses
from harness import main, wait_until
from losses import SUBSCRIBERS

STEPS = 500


class HarmlessTest(losses.LossSite):
    def start_watched(self, **environment):
        return super().start_watched("--max-steps", str(STEPS), "--test-images", "500", **environment)

    def assert_same_losses(self):
        super().assert_same_losses(STEPS)

    def loss_steps(self):
        return super().loss_steps(self.bare(STEPS))

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
        gone = self.steps_made()  # the probe hears of it some steps later, on a thread that has to be given time
        self.wait_for_step(gone + 100)
        self.start_daemon(*SUBSCRIBERS)
        self.assert_same_losses()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        steps = self.loss_steps()
        self.assertEqual(steps[0], 0)
        self.assertFalse([step for step in steps if gone + 60 < step < gone + 100], "steps that no daemon was there to see")
        self.assertEqual(steps[-1], STEPS - 1)
        self.assertGreater(len([step for step in steps if step >= gone + 100]), 0)
        self.finish()

    def test_trainer_killed(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(IKKUNA_WAIT_MS="10000")
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
    main()
