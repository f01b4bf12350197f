"""What TensorBoard shows is what the store has: beside a job that trains, over daemons that are killed, below a cap.

The first slice wrote each number as an event of its own, dropped a resumed run's steps, had no limit, and two tags of one
path shared a folder.
"""
import json
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import numpy as np  # noqa: E402
from harness import SOURCE, TEST_BIN, WATCHDOG_S, Site, main, pb, wait_until  # noqa: E402


class TensorBoardFiles(Site):
    def job(self, *arguments, **environment):
        return self.start([TEST_BIN / "c_job", *[str(word) for word in arguments]],
                          **{"IKKUNA_WAIT_MS": "120000", **environment})

    def read_back(self):
        """What TensorBoard's own readers see, by folder; every record's checksums hold."""
        command = [sys.executable, SOURCE / "tests/daemon/sinks/read_event_files.py", self.data / "tensorboard"]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=240).stdout)

    def sink(self):
        return next(sink for sink in self.client.status().sinks if sink.name == "tensorboard")

    def test_the_same_numbers_as_the_store_one_event_a_step(self):
        self.start_daemon("--budget", "off", "--subscribe", "norm(weights, order=2)", "--subscribe", "mean(weights)")
        self.job("--steps", 300, "--run", "a/b").expect_success()
        self.settled_producer()
        self.assert_sinks_account()
        served = self.client.everything()
        sink = self.sink()
        self.assertEqual(sink.dropped, 0, str(sink))
        self.stop_daemon()
        (folder, content), = self.read_back().items()
        self.assertEqual(folder, "a_b/0/default")
        self.assertGreater(len(served), 3)
        seen = {name: {step: value for step, _, value in points} for name, points in content["scalars"].items()}
        for (tag, root, module, param, topic), values in served.items():
            name = topic + ("/" + module if module else "") + ("." + param if module and param else "")
            self.assertEqual({step: float(value) for step, value in seen.pop(name).items()},
                             {step: float(np.float32(value)) for step, value in values.items()}, name)
        self.assertEqual(seen, {})
        steps = {step for points in content["scalars"].values() for step, _, _ in points}
        times = {(step, time) for points in content["scalars"].values() for step, time, _ in points}
        self.assertEqual(len(times), len(steps), "a step has several times")
        # The version, the start, and a step's values together.
        self.assertEqual(content["events"], 2 + len(steps))
        self.assertIn("run/facts", content["texts"])
        self.assertIn("run/configuration", content["texts"])

    def test_daemons_that_are_killed_leave_one_line_without_a_step_twice(self):
        job = self.job("--steps", 10_000_000, "--us", 2000, "--until-stop", 1)

        def handles_some():
            """Until the daemon that has come has handled some thousand records itself."""
            first = []

            def more():
                producer = self.client.producer()
                if not producer:
                    return False
                first.append(producer.accounting.handled)
                return producer.accounting.handled > first[0] + 2000

            wait_until(more, lambda: f"nothing is handled:\n{self.client.status()}")

        for _ in range(4):
            self.start_daemon("--budget", "off")
            handles_some()
            self.daemon.signal(signal.SIGKILL)
            self.daemon.wait()
        self.start_daemon("--budget", "off")
        handles_some()
        self.client.stub.Stop(pb.StopRequest(), timeout=WATCHDOG_S)
        job.expect_success()
        self.settled_producer()
        self.assert_sinks_account()
        losses = {name[4]: values for name, values in self.client.everything(topic="loss").items()}["loss"]
        self.stop_daemon()
        (content,) = self.read_back().values()
        points = content["scalars"]["loss"]
        steps = [step for step, _, _ in points]
        self.assertEqual(steps, sorted(set(steps)))
        self.assertEqual(steps, content["shown"]["loss"])
        for step, _, value in points:
            self.assertEqual(float(value), 1 + step)
        # But for the last moments of a daemon that was killed: nothing is written here that the store may not have.
        self.assertGreater(len(points), 0.5 * len(losses))
        shown = set(steps)
        self.assertEqual(shown - set(losses), set())
        kept = sorted(losses)
        gaps = sum(step not in shown and (i == 0 or kept[i - 1] in shown) for i, step in enumerate(kept))
        self.assertLessEqual(gaps, 4, "more than what four that were killed had not written yet")
        self.assertEqual(content["starts"], [0])

    def test_a_filter_and_a_cap(self):
        self.start_daemon("--budget", "off", "--tensorboard-topics", "loss|nothing", "--tensorboard-max-mb", 1,
                          "--subscribe", "norm(weights, order=2)")
        for n in range(4):
            self.job("--steps", 9000, "--us", 100, "--run", f"run{n}").expect_success()
        wait_until(lambda: any(event.kind == "tensorboard_removed" for event in self.client.events()),
                   lambda: str(self.client.events()))
        self.assert_sinks_account()
        sink = self.sink()
        self.assertFalse([drop for drop in sink.drops if drop.reason != "size_cap"], str(sink))
        self.stop_daemon()
        files = self.read_back()
        self.assertNotIn("run0/0/default", files)
        self.assertIn("run3/0/default", files)
        for content in files.values():
            self.assertEqual(list(content["scalars"]), ["loss"])
        size = sum(path.stat().st_size for path in (self.data / "tensorboard").rglob("*tfevents*"))
        self.assertLessEqual(size, 1 << 20)


if __name__ == "__main__":
    main()
