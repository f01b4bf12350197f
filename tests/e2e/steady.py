"""Very many steps with a fixed list of twenty series: memory, store and counters at the end are what they were early on."""

import time

import losses
from harness import wait_until
from losses import memory_kb

STORE_MAX_MB = 16  # a small part of what 100,000 steps would take: the store must thin
LOG_MB = 8         # SQLite's write-ahead log beside the run's file, and what is written before upkeep looks again
ARENA_MB = 64
SERIES = 20
SUBSCRIBERS = ["loss()", "norm(weights, order=2)", "norm(weights, order=3)", "mean(weights)",
               "norm(weight_gradients, order=2)", "mean(weight_gradients)", "mean(activations)", "std(activations)",
               "mean(layer_gradients)"]
# Of each step: its two markers, those of its pass and of the walk of backward, the loss, weights and weight gradients of
# two layers, and activations and layer gradients of three modules. norm(order=3) needs whole tensors: both layers' weights, each rounded up to 64 bytes in the arena.
RECORDS_A_STEP = 2 + 2 + 1 + 2 * 2 + 2 * 3
ARENA_BYTES_A_STEP = 784 * 16 * 4 + 16 * 10 * 4
TRAINER_SLACK_KB = 8 * 1024
# Pages of the store's cache, and the past that a watcher's cursor may reach back over (WatchHubOptions::past_bytes_max, 64
# MiB of batches), which fills in the first 150,000 steps and stays.
DAEMON_SLACK_KB = (24 + 80) * 1024


class Steady(losses.LossSite):
    """Without tests of its own, so that those who import it do not run them."""

    def run_steps(self, steps):
        self.assertGreater(steps * ARENA_BYTES_A_STEP, 1 << 32, "arena positions are to pass 2^32 bytes")
        self.start_daemon("--no-default", "--budget", "off", "--store-max-mb", str(STORE_MAX_MB), "--no-tensorboard", "--no-health",
                          *[word for text in SUBSCRIBERS for word in ("--subscribe", text)])
        trainer = self.start_trainer("--model", "tiny", "--epochs", str(steps), "--max-steps", str(steps), "--budget", "off",
                                     "--test-images", "0", "--log-every", "10000", IKKUNA_WAIT_MS="120000",
                                     IKKUNA_ARENA_MB=str(ARENA_MB))

        def memory():
            return memory_kb(trainer.pid, "RssAnon"), memory_kb(self.daemon.pid, "VmRSS")

        def step():
            producer = self.client.producer()
            return producer.steps_total if producer else 0

        wait_until(lambda: step() >= steps // 5 or not trainer.running(), "the trainer stands still", 3000)
        early = memory()
        late, largest_store, most_series = early, 0, 0
        while trainer.running():  # ctest is its watchdog
            late = tuple(now or before for now, before in zip(memory(), late))
            status = self.client.status()
            largest_store, most_series = max(largest_store, status.store.bytes), max(most_series, status.series)
            time.sleep(0.2)
        trainer.expect_success()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assert_sinks_account()
        status = self.client.status()

        self.assertEqual(producer.steps_total, steps)
        self.assertEqual(producer.roots[0].steps_due, steps)
        self.assertEqual(producer.accounting.attempted, RECORDS_A_STEP * steps)
        self.assertEqual(producer.accounting.lost_in_daemon + producer.accounting.killed, 0)
        self.assertEqual((most_series, status.series), (SERIES, 0), "series of runs that go on")
        self.assertEqual(len(self.client.series()), SERIES)
        [store] = [sink for sink in status.sinks if sink.name == "store"]
        if producer.accounting.dropped == 0:
            self.assertEqual(producer.roots[0].steps_observed, steps)
            self.assertEqual(store.offered, SERIES * steps)
        print(f"memory kB early {early}, late {late}; store {status.store.bytes} of {status.store.bytes_max} bytes, at most "
              f"{largest_store}; dropped {producer.accounting.dropped} of {producer.accounting.attempted}")
        self.assertLess(late[0], early[0] + TRAINER_SLACK_KB, "the trainer's memory grows")
        self.assertLess(late[1], early[1] + DAEMON_SLACK_KB, "the daemon's memory grows")
        self.assertEqual(status.store.bytes_max, STORE_MAX_MB << 20)
        self.assertLess(largest_store, status.store.bytes_max + (LOG_MB << 20))
        for summary in self.client.series():
            self.assertGreaterEqual(summary.last_step, steps - 1 - producer.accounting.dropped)
        self.finish()
        size = sum(path.stat().st_size for path in self.data.rglob("*.run*"))
        self.assertLess(size, 1.25 * (STORE_MAX_MB << 20), "the store is beyond its cap")
