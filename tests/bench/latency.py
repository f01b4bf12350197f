"""From an optimizer's step to a client that watches: how old a sample is when a gRPC client has it in hand.

A daemon that has nothing else to do, `ikkuna-train --model fc` beside it on a core of its own, and a client that watches
the norm of the weights at every step. A sample carries the time at which the trainer's thread read the tensor, just before
the optimizer wrote it; both ends are on one clock. Before the trainer starts, what the daemon costs at rest is measured.

    latency.py [--steps N] [--check]

Last line: median_ms p99_ms
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import harness  # noqa: E402

GOAL_MEDIAN_MS = 20
AT_REST_S = 5


class Measurement(harness.Site):
    """A site that is no test: a folder and processes that are gone afterwards."""

    def runTest(self):
        pass

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self):
        [line] = [l for l in pathlib.Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines() if l.startswith("VmRSS")]
        return int(line.split()[1]) / 1024

    def run_steps(self, steps):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[-1]})
        self.start_daemon("--no-default", "--subscribe", "norm(weights)", "--budget", "off")
        before = self.cpu_seconds()
        time.sleep(AT_REST_S)
        print(f"daemon at rest: {100 * (self.cpu_seconds() - before) / AT_REST_S:.2f}% of a core, {self.resident_mb():.0f} MB")
        stream = self.client.stub.Watch(harness.pb.WatchRequest(), timeout=harness.WATCHDOG_S * 2)
        os.sched_setaffinity(0, {cores[0]})  # what the trainer inherits
        self.start_trainer("--model", "fc", "--epochs", "100000", "--test-images", "0")
        os.sched_setaffinity(0, {cores[-1]})
        ages, dropped = {}, 0
        for answer in stream:
            now = time.time_ns()
            dropped = answer.dropped
            for sample in answer.samples:
                ages.setdefault(sample.step, (now - sample.unix_ns) / 1e6)
            if len(ages) >= steps:
                break
        stream.cancel()
        # The first steps of a trainer are its own warming up.
        return [age for step, age in sorted(ages.items())][len(ages) // 10:], dropped


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--check", action="store_true", help=f"exit 1 when the median is above {GOAL_MEDIAN_MS} ms")
    arguments = parser.parse_args()
    measurement = Measurement()
    measurement.setUp()
    try:
        ages, dropped = measurement.run_steps(arguments.steps)
    finally:
        measurement.doCleanups()
    percentiles = statistics.quantiles(ages, n=100)
    median, p99 = statistics.median(ages), percentiles[98]
    print(f"{len(ages)} steps, {dropped} samples dropped: least {min(ages):.2f} ms, median {median:.2f} ms, "
          f"90% {percentiles[89]:.2f} ms, 99% {p99:.2f} ms, most {max(ages):.2f} ms")
    print(f"median_ms={median:.3f} p99_ms={p99:.3f}")
    if arguments.check and median > GOAL_MEDIAN_MS:
        raise SystemExit("above the goal")


if __name__ == "__main__":
    main()
