"""The daemon's own health is served like any other series, says what status says, and stays out of the trainings' way."""

import signal
import subprocess
import time

import harness
from harness import BIN, pb, wait_until

RUN = "ikkuna-daemon"


class HealthTest(harness.Site):
    def health(self):
        """{(topic, root, module, param): last value} of the daemon's own series."""
        return {(s.series.key.topic, s.series.key.root, s.series.key.module, s.series.key.param): s.last
                for s in self.client.series(run=RUN)}

    def expected(self):
        """The same from status, of what does not change by looking at it."""
        status = self.client.status()
        expected = {("daemon_series_refused", "", "", ""): status.series_refused,
                    ("daemon_connections_refused", "", "", ""): 0,
                    ("daemon_producers", "", "", ""): sum(p.state == pb.PRODUCER_STATE_RUNNING for p in status.producers)}
        for sink in status.sinks:
            expected["daemon_sink_waiting", "", sink.name, ""] = sink.waiting
            expected["daemon_sink_lag", "", sink.name, ""] = sink.lag_seconds
            expected["daemon_sink_dropped", "", sink.name, ""] = sink.dropped
        for producer in status.producers:
            run = producer.run
            name = "", f"{run.run_id}/{run.attempt}/{run.rank}"
            a = producer.accounting
            expected["daemon_records_handled", *name, ""] = a.handled
            expected["daemon_records_in_flight", *name, ""] = a.in_flight
            expected["daemon_records_dropped", *name, ""] = a.dropped
            expected["daemon_records_lost", *name, ""] = a.lost_in_daemon + a.killed
            expected["daemon_budget", *name, ""] = producer.budget
            expected["daemon_period_factor", *name, "tensor"] = producer.period_factors.tensor
            for drop in a.drops:
                expected["daemon_records_dropped", *name, drop.reason] = drop.count
        return expected

    def assert_health_is_status(self):
        def differences():
            wanted, kept = self.expected(), self.health()
            return {name: (value, kept.get(name)) for name, value in wanted.items() if kept.get(name) != value}

        wait_until(lambda: not differences(), lambda: f"(status, series) differ: {differences()}")

    def test_at_rest_it_says_what_status_says(self):
        self.start_daemon("--budget", "off", "--subscribe", "norm(activations, order=3)")
        # Nobody reads for a while, and an arena of 1 MiB fills: messages are dropped, which is the point.
        losses = self.root / "losses"

        def lines():
            return losses.read_bytes().count(b"\n") if losses.exists() else 0

        trainer = self.start_trainer("--model", "fc", "--max-steps", "100000", "--epochs", "1000", "--test-images", "0",
                                     "--budget", "off", "--losses", losses, IKKUNA_WAIT_MS="120000", IKKUNA_ARENA_MB="1")
        wait_until(lambda: self.client.producer() and self.client.producer().accounting.handled, "nothing is handled")
        self.daemon.signal(signal.SIGSTOP)
        steps = lines()
        wait_until(lambda: lines() >= steps + 20, lambda: f"it trains no more: {trainer.log()}")
        self.daemon.signal(signal.SIGCONT)
        trainer.signal(signal.SIGTERM)
        trainer.expect_success()
        producer = self.settled_producer()
        self.assertGreater(producer.accounting.dropped, 0, "nothing was dropped: this test shows nothing")
        self.assert_health_is_status()
        seconds = {module: value for (topic, _, module, _), value in self.health().items()
                   if topic == "daemon_subscriber_seconds"}
        self.assertEqual(seconds.keys(), {subscriber.text for subscriber in self.client.subscribers()})

        # Every look has one step, a second of its own, and none goes back. A look that finds nothing changed is not kept: a
        # second producer is a change.
        self.train("--model", "fc", "--max-steps", "20", "--test-images", "0", IKKUNA_WAIT_MS="120000")
        wait_until(lambda: len(self.client.status().producers) == 2, "the second producer does not appear")
        self.assert_health_is_status()
        steps = set()
        for series in self.client.series(run=RUN, topic="daemon_records_*"):
            samples = self.client.samples(series)
            self.assertEqual([s.step for s in samples], sorted({s.step for s in samples}))
            self.assertLess(abs(samples[-1].step - samples[-1].unix_ns / 1e9), 60)
            steps.update(s.step for s in samples)
        self.assertGreater(len(steps), 1)
        # Over a restart too.
        self.stop_daemon()
        self.start_daemon("--budget", "off")
        before = max(steps)
        wait_until(lambda: max(s.last_step for s in self.client.series(run=RUN, topic="daemon_cpu_seconds")) > before,
                   "nothing is kept after the restart")

        # The client finds it by its name; without it nothing of it is seen.
        client = [BIN / "ikkuna"]
        listed = subprocess.run([*client, "series", "--run", RUN, "daemon_records_dropped"], env=self.environment,
                                capture_output=True, text=True, timeout=harness.WATCHDOG_S)
        self.assertIn(producer.accounting.drops[0].reason, listed.stdout, listed.stderr)
        plotted = subprocess.run([*client, "plot", "daemon_records_handled", "--run", RUN, "--ascii"], env=self.environment,
                                 capture_output=True, text=True, timeout=harness.WATCHDOG_S)
        self.assertEqual(plotted.returncode, 0, plotted.stderr)
        self.assertNotIn(RUN, [run.key.run_id for run in self.client.runs()])
        [latest] = self.client.runs(run="latest")
        self.assertEqual(latest.name, "fc")
        self.assertFalse([s for s in self.client.series() if s.series.key.topic.startswith("daemon_")])
        status = subprocess.run([*client, "status"], env=self.environment, capture_output=True, text=True,
                                timeout=harness.WATCHDOG_S)
        self.assertIn(f"ikkuna series --run {RUN}", status.stdout)
        self.assertIn("subscribers", status.stdout)

    def test_a_daemon_at_rest_writes_next_to_nothing(self):
        self.start_daemon()
        wait_until(lambda: self.health(), "nothing is kept")
        time.sleep(15)
        now = int(time.time())
        written = {s.step for series in self.client.series(run=RUN) for s in self.client.samples(series)}
        # What a look itself moves, processor time and the store's size, must not make every look write.
        self.assertLess(len(written), (now - min(written) + 1) / 2, sorted(written))

    def test_it_can_be_switched_off(self):
        self.start_daemon("--no-health")
        self.train("--model", "tiny", "--max-steps", "50", "--test-images", "0", IKKUNA_WAIT_MS="120000")
        self.settled_producer()
        self.assertEqual(self.client.status().health_run, "")
        self.stop_daemon()
        self.start_daemon("--no-health")
        with self.assertRaises(harness.grpc.RpcError) as failed:
            self.client.series(run=RUN)
        self.assertEqual(failed.exception.code(), harness.grpc.StatusCode.NOT_FOUND)


if __name__ == "__main__":
    harness.main()
