"""A daemon that is killed again and again, one that hangs for good, and one too many: training does not notice."""

import signal
import subprocess

import losses
from harness import BIN, WATCHDOG_S, main, wait_until
from losses import SUBSCRIBERS, held_memory_objects, memory_kb

KILLS = 20
KEPT_MAPPINGS = 16 + 2  # CTL of sessions that ended (Session::kMaxRetired), of the one that is on, and PUB
ARENA_MB = 32
RING_MB = 16384 * 256 >> 20


class DaemonFaultsTest(losses.LossSite):
    def session_at_work(self):
        """Until this daemon has handled a record of the trainer's, beyond those of the daemons before it."""
        def handled():
            assert self.trainer.running(), f"the trainer ended too early:\n{self.trainer.log()}"
            producer = self.client.producer()
            return producer.accounting.handled if producer and producer.ring_slots else 0

        before = wait_until(lambda: handled() or None, "the trainer does not come back to the daemon")
        wait_until(lambda: handled() > before, "the daemon handles nothing")

    def test_killed_20_times_in_one_training(self):
        self.start_daemon("--no-health", *SUBSCRIBERS)
        # A probe that needs its small arena again at once takes every head it can get: what the daemon had read and not kept
        # is gone then. One with room keeps to old heads, and the next daemon reads it again.
        self.start_watched("--max-steps", "50000", "--epochs", "1000", "--test-images", "0", IKKUNA_WAIT_MS="120000",
                           IKKUNA_ARENA_MB=str(ARENA_MB))
        self.session_at_work()
        # The first steps are there in the end if the first daemon lives until they are kept: a training that is many steps
        # ahead when the next one comes has no room for what was read and not kept.
        wait_until(lambda: self.sink("store").written, "nothing is kept")
        _, open_files = held_memory_objects(self.trainer.pid)
        for kill in range(KILLS):
            self.daemon.signal(signal.SIGKILL)
            self.assertEqual(self.daemon.wait(), -signal.SIGKILL)
            self.client.close()
            self.start_daemon("--no-health", *SUBSCRIBERS)
            self.session_at_work()
        mapped, still_open = held_memory_objects(self.trainer.pid)
        self.assertLessEqual(mapped, KEPT_MAPPINGS)
        self.assertLessEqual(still_open, open_files)
        self.end_read_trainer()
        steps = self.assert_same_losses()

        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertGreater(producer.accounting.lost_in_daemon, 0, "20 daemons died and none had anything in its hands")
        self.assertEqual(producer.accounting.killed, 0)
        self.assertEqual(producer.steps_total, steps)
        self.assertLess(producer.steps_while_connected, steps)
        self.assertEqual(len(self.client.status().producers), 1, "one producer, whatever the number of its sessions")
        stored = self.loss_steps(self.bare(steps))
        self.assertEqual(stored[0], 0)
        self.assertEqual(stored[-1], steps - 1)
        self.assertEqual(producer.run.attempt, 0)
        self.finish()

    def test_hangs_for_the_rest_of_a_training(self):
        steps, arguments = 700, ["--max-steps", "700", "--test-images", "0"]
        # Without a daemon nothing is asked of the probe: its memory is what the training itself needs.
        self.start_watched(*arguments)
        alone = self.memory_until_the_end()
        self.assert_same_losses(steps)

        self.start_daemon(*SUBSCRIBERS)
        self.start_watched(*arguments, IKKUNA_WAIT_MS="120000", IKKUNA_ARENA_MB=str(ARENA_MB))
        self.wait_for_step(100)
        self.daemon.signal(signal.SIGSTOP)
        self.wait_for_step(150)  # 1.2 MB of whole tensors a step, at the least: by now the arena is full
        early_kb = memory_kb(self.trainer.pid, "RssAnon")
        watched = self.memory_until_the_end()
        self.assert_same_losses(steps)
        # Ring and arena are all there is; 16 MB for copies of the weights, whose updates are asked for, and the demand.
        self.assertLess(watched["VmHWM"][-1], alone["VmHWM"][-1] + (ARENA_MB + RING_MB + 16) * 1024)
        self.assertLess(watched["RssAnon"][-1], early_kb + 4 * 1024, "memory grows while nobody reads")

        self.daemon.signal(signal.SIGCONT)
        producer = self.settled_producer("FINISHED", "DIED")
        self.assert_accounts(producer)
        self.assertGreater(sum(drop.count for drop in producer.accounting.drops if drop.reason == "arena_full"), 0)
        self.assertEqual(producer.steps_total, steps)
        self.loss_steps(self.bare(steps))
        self.finish()

    def test_second_daemon_in_the_same_directory(self):
        self.start_daemon(*SUBSCRIBERS)
        self.start_watched("--max-steps", "50000", "--epochs", "1000", "--test-images", "0", IKKUNA_WAIT_MS="120000")
        self.session_at_work()
        for _ in range(2):
            second = self.start([BIN / "ikkuna-daemon", "--data-dir", self.root / "data-of-the-second"])
            self.assertNotEqual(second.wait(), 0)
            self.assertRegex(second.log(), rf"\b{self.daemon.pid}\b", "the message does not name who holds the directory")
            self.assertIn(str(self.meeting), second.log())
        # The first goes on serving: a client that comes now reaches it, on the socket that the second might have taken.
        answer = subprocess.run([BIN / "ikkuna", "status"], env=self.environment, capture_output=True, text=True, timeout=WATCHDOG_S)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertRegex(answer.stdout, rf"pid {self.daemon.pid}\b")
        self.session_at_work()
        self.end_trainer()
        steps = self.assert_same_losses()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.accounting.lost_in_daemon + producer.accounting.killed, 0)
        self.assertEqual(producer.coverage, 1)
        if producer.accounting.dropped == 0:
            self.assertEqual(self.loss_steps(self.bare(steps)), list(range(steps)))
        self.finish()


if __name__ == "__main__":
    main()
