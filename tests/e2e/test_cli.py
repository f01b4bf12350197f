"""Every subcommand of `ikkuna` against a live daemon: it does what it says, --json parses, failures say what failed."""

import csv
import fcntl
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import harness
from harness import BIN, TEST_BIN, WATCHDOG_S, wait_until


class CommandLineTest(harness.Site):
    def setUp(self):
        super().setUp()
        self.start_daemon("--budget", "off")
        self.trainer = self.start_trainer("--model", "tiny", "--epochs", "100000", "--test-images", "200", "--allow-control",
                                          "--budget", "off", "--run", "night shift", IKKUNA_WAIT_MS="120000")

        def epoch_ended():
            self.assertTrue(self.trainer.running(), self.trainer.log())
            return self.client.series(topic="test_accuracy")

        wait_until(epoch_ended, lambda: f"no epoch ends:\n{self.trainer.log()[-1000:]}\n{self.client.status()}")

    def ikkuna(self, *arguments, code=0, environment=None):
        result = subprocess.run([BIN / "ikkuna", *map(str, arguments)], env=environment or self.environment,
                                capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=WATCHDOG_S)
        self.assertEqual(result.returncode, code, f"{arguments}: {result.stdout}{result.stderr}")
        self.assertNotIn("\x1b", result.stdout, f"{arguments}: colours without a terminal")
        if code != 0:
            self.assertTrue(result.stderr.strip(), f"{arguments}: failed without a word")
        return result.stdout

    def json(self, *arguments):
        return json.loads(self.ikkuna(*arguments, "--json"))

    def test_what_is_known(self):
        status = self.json("status")
        [producer] = status["producers"]
        self.assertEqual(producer["run_name"], "night shift")
        self.assertEqual(producer["pid"], self.trainer.pid)
        self.assertEqual(producer["state"], "running")
        self.assertTrue(producer["allow_control"])
        self.assertIn("night shift", self.ikkuna("status"))
        [run] = self.json("runs")
        self.assertEqual(run["name"], "night shift")
        given = {"model": "tiny", "optimizer": "sgd", "lr": "0.005", "batch_size": "16"}

        def facts_are_kept():  # at the next save: what the trainer says of itself comes after it has connected
            [run] = self.json("runs")
            return given.items() <= {fact["name"]: fact["value"] for fact in run["facts"]}.items()

        wait_until(facts_are_kept, lambda: f"hyperparameters are missing: {self.json('runs')}")
        self.assertIn("night shift", self.ikkuna("runs"))
        modules = {module["name"]: module for module in self.json("modules")}
        self.assertEqual(modules["layers.0"]["type"], "Linear")
        self.assertEqual(modules["layers.0"]["parameters"][0]["sizes"], [16, 784])
        self.assertIn("layers.1", modules)
        self.assertIn("layers.0", self.ikkuna("modules"))
        metrics = {metric["name"] for metric in self.json("metrics")}
        self.assertTrue({"mean", "variance", "sum", "norm", "ratio", "loss", "train_accuracy", "message_mean"} <= metrics)
        self.assertIn("run_started", {event["kind"] for event in self.json("events")})
        self.assertIn("night shift", self.ikkuna("events"))
        self.assertIn("night shift", self.ikkuna("status", "--run", "latest"))
        self.ikkuna("tag", "night shift", "+keep", "+draft")
        self.ikkuna("tag", "night shift", "-draft")
        self.assertEqual([run["tags"] for run in self.json("runs", "--tagged", "keep")], [["keep"]])
        self.json("why")

    def test_numbers(self):
        topics = {row["series"]["key"]["topic"] for row in self.json("series")}
        self.assertTrue({"loss", "train_accuracy", "test_accuracy", "weights_norm2"} <= topics, topics)
        self.assertIn("weights_norm2", self.ikkuna("series", "weights_*"))
        rows = {(row["module"], row["param"]): row for row in self.json("table")}
        self.assertIn("norm2", rows["layers.0", "weight"]["weights"])
        self.assertIn("layers.0", self.ikkuna("table"))
        self.assertIn("layers.0", self.ikkuna("top", "--once"))
        plot = self.ikkuna("plot", "loss", "--tag", "default", "--width", "60", "--height", "8", "--ascii")
        self.assertTrue(plot.isascii() and "loss" in plot and "step" in plot, plot)

        series = json.loads(self.ikkuna("read", "loss", "--tag", "default", "--to-step", "99", "--format", "json"))
        self.assertEqual([s["step"] for s in series[0]["samples"]], list(range(100)))
        # 16 images a step.
        self.assertEqual([s["samples_seen"] for s in series[0]["samples"]], [16 * (step + 1) for step in range(100)])
        self.assertIn("samples seen", self.ikkuna("plot", "loss", "--tag", "default", "--x", "samples", "--ascii"))
        self.assertIn("samples seen", self.ikkuna("status"))
        lines = list(csv.DictReader(io.StringIO(
            self.ikkuna("read", "loss", "--tag", "default", "--to-step", "99", "--format", "csv"))))
        self.assertEqual([float(line["value"]) for line in lines], [s["value"] for s in series[0]["samples"]])
        [stored] = self.client.everything(topic="loss", tag="default").values()
        self.assertEqual([s["value"] for s in series[0]["samples"]], [stored[step] for step in range(100)])
        table = self.ikkuna("read", "loss", "--tag", "default", "--to-step", "99", "--points", "10")
        self.assertLess(len(table.splitlines()), 20)

        self.assertIn("smoothed over 20", self.ikkuna("plot", "loss", "--tag", "default", "--smooth", "20", "--ascii"))
        watched = self.ikkuna("watch", "loss", "--json", "--count", "5").splitlines()
        samples = [line for line in map(json.loads, watched) if line["type"] == "sample"]
        self.assertEqual(len(samples), 5)
        self.assertEqual(samples[0]["topic"], "loss")
        self.assertIn("loss", self.ikkuna("watch", "loss", "--count", "2"))

    def test_subscribers_come_and_go(self):
        before = self.json("subscribers")
        self.assertIn("loss", self.ikkuna("subscribers"))
        [added] = self.json("subscribe", "norm(weights, order=3)")["subscribers"]
        self.assertEqual(added["topics"], ["weights_norm3"])
        wait_until(lambda: self.client.series(topic="weights_norm3"), "no sample comes")
        self.assertEqual(len(self.json("subscribers")), len(before) + 1)
        self.assertIn(added["text"], self.ikkuna("unsubscribe", "weights_norm3"))
        self.assertEqual(self.json("subscribers")[-1]["id"], before[-1]["id"])
        self.ikkuna("subscribe", "norm(weights, order=3", code=2)
        self.ikkuna("unsubscribe", "weights_norm3", code=1)

    def test_control(self):
        def gradients():
            return {s.series.key.module: s.count for s in self.client.series(topic="weight_gradients_norm2")}

        self.assertGreater(gradients()["layers.0"], 0)
        self.assertTrue(self.json("freeze", "layers.0")["text"])

        def only_the_other_grows():
            before = gradients()
            wait_until(lambda: gradients()["layers.2"] > before["layers.2"] + 2, "training stands still")
            return gradients()["layers.0"] == before["layers.0"]

        wait_until(only_the_other_grows, "the frozen layer still has gradients")
        # Nothing would train any more: the trainer refuses.
        self.ikkuna("freeze", "layers.2")
        wait_until(lambda: any("freeze refused" in note for note in self.client.producer().notes), "it is not refused")
        self.ikkuna("freeze", "nothing.*", code=1)
        count = gradients()["layers.0"]
        self.ikkuna("unfreeze", "layers.0")
        wait_until(lambda: gradients()["layers.0"] > count, "the layer does not train again")
        self.assertTrue(self.json("stop")["text"])
        self.trainer.expect_success()
        self.assert_accounts(self.settled_producer())
        kinds = {event["kind"] for event in self.json("events", "--run", "latest", "--last", "0")}
        self.assertTrue({"freeze", "unfreeze", "stop", "run_ended"} <= kinds, kinds)

    def test_a_run_travels_as_a_file(self):
        def losses(*arguments, **options):
            return self.ikkuna(*arguments, "read", "loss", "--tag", "default", "--format", "csv", **options).splitlines()[1:]

        # While it goes on: a copy, which is read without a daemon and holds what its daemon shows up to there.
        copy = self.root / "copy.run"
        self.ikkuna("export", "night shift", "--file", copy)
        kept = losses("--data-dir", copy)
        self.assertGreater(len(kept), 100)
        self.assertEqual(losses()[:len(kept)], kept)
        self.assertIn("layers.0", self.ikkuna("--data-dir", copy, "modules"))
        self.assertEqual([run["name"] for run in json.loads(self.ikkuna("--data-dir", copy, "runs", "--json"))], ["night shift"])

        # Another daemon takes it in, once.
        other = {**self.environment, "IKKUNA_DIR": str(self.meeting / "other"), "IKKUNA_DATA": str(self.root / "other-data")}
        self.ikkuna("up", environment=other)
        self.ikkuna("import", copy, environment=other)
        self.assertEqual(losses(environment=other), kept)
        again = subprocess.run([BIN / "ikkuna", "import", copy], env=other, capture_output=True, text=True, timeout=WATCHDOG_S)
        self.assertEqual(again.returncode, 1)
        self.assertIn("there is a run", again.stderr)
        self.assertIn(str(copy), again.stderr)
        self.assertNotIn("staging", again.stderr)
        self.ikkuna("delete", "night shift", "--yes", environment=other)
        self.assertEqual(json.loads(self.ikkuna("runs", "--json", environment=other)), [])
        self.ikkuna("import", copy, environment=other)
        self.assertEqual(losses(environment=other), kept)
        self.ikkuna("down", environment=other)
        self.assertEqual(losses("--data-dir", self.root / "other-data"), kept)

        # Of its own daemon's folder nothing is read while that writes it; all that it had committed when it was killed.
        live = subprocess.run([BIN / "ikkuna", "--data-dir", self.data, "runs"], env=self.environment, capture_output=True,
                              text=True, timeout=WATCHDOG_S)
        self.assertEqual(live.returncode, 0)
        self.assertIn("a daemon has it open", live.stderr)
        offered = self.sink("store").offered
        wait_until(lambda: self.sink("store").written >= offered, "what was recorded since is not kept")
        self.daemon.signal(signal.SIGKILL)
        self.daemon.wait()
        left = losses("--data-dir", self.data)
        self.assertEqual(left[:len(kept)], kept)
        self.assertGreater(len(left), len(kept))

    def test_failures(self):
        self.ikkuna("read", "loss", "--run", "nobody", code=1)
        self.ikkuna("delete", "night shift", code=2)  # nobody to ask
        self.ikkuna("delete", "night shift", "--yes", code=1)  # it goes on
        self.ikkuna("plot", "nothing_at_all", code=1)
        self.ikkuna("bake", code=2)
        self.ikkuna("plot", code=2)
        nowhere = {**self.environment, "IKKUNA_DIR": str(self.root / "nowhere")}
        self.ikkuna("status", code=3, environment=nowhere)
        for command in ("status", "runs", "series", "modules", "table", "top", "watch", "plot", "read", "subscribe",
                        "unsubscribe", "subscribers", "metrics", "events", "freeze", "unfreeze", "stop", "run", "texts",
                        "histogram", "export", "import", "delete", "tag", "why", "publish"):
            self.assertRegex(self.ikkuna(command, "--help"), r"\nExamples?:\n")


class RunTest(harness.Site):
    def test_run_brings_a_daemon(self):
        client = [BIN / "ikkuna", "run", "--data-dir", self.data, "--daemon-arg=--budget=off", "--", BIN / "ikkuna-train",
                  "--model", "tiny", "--max-steps", "300", "--test-images", "0", "--budget", "off", "--threads", "1"]
        self.start(client, IKKUNA_WAIT_MS="120000").expect_success()
        self.down()
        self.start_daemon()
        self.assertEqual([(run.name, run.last_step) for run in self.client.runs()],
                         [("tiny", 299)])
        self.stop_daemon()

    def test_run_hands_on_how_the_job_ended(self):
        run = [BIN / "ikkuna", "run", "--data-dir", self.data, "--"]
        self.assertEqual(self.start([*run, "sh", "-c", "exit 7"]).wait(), 7)
        self.assertEqual(self.start([*run, "sh", "-c", "kill -TERM $$"]).wait(), 128 + signal.SIGTERM)
        self.assertEqual(self.start([*run, self.root / "no-such-program"]).wait(), 127)
        self.down()

    def test_up_and_down(self):
        up = [BIN / "ikkuna", "up", "--data-dir", self.data]
        ups = [self.start(up) for _ in range(6)]
        for one in ups:
            one.expect_success()
        self.assertEqual(sum("was started" in one.log() for one in ups), 1, [one.log() for one in ups])
        self.assertEqual(len({re.search(r"process (\d+)", one.log()).group(1) for one in ups}), 1)
        self.down()

    def test_one_that_nobody_uses_ends_and_the_next_comes(self):
        up = [BIN / "ikkuna", "up", "--data-dir", self.data, "--linger", "0.5"]
        for _ in range(3):
            started = self.start(up)
            started.expect_success()
            self.assertIn("was started", started.log())
            harness.wait_until(lambda: not self.leftovers(), self.leftovers)

    def test_ups_while_daemons_linger_out(self):
        """As many as come in the moments in which one ends because nobody came: each has one that serves."""
        self.meeting.mkdir(mode=0o700)
        for n in range(6):
            with open(self.meeting / "users", "a") as users:  # as `ikkuna run` does: it stays until the status has come
                fcntl.flock(users, fcntl.LOCK_SH)
                up = self.start([BIN / "ikkuna", "up", "--data-dir", self.data, "--linger", "3"])
                up.expect_success()
                status = subprocess.run([BIN / "ikkuna", "status"], env=self.environment, capture_output=True, text=True,
                                        timeout=WATCHDOG_S)
            self.assertEqual(status.returncode, 0, f"{n}: {up.log()}{status.stderr}")
            time.sleep(2.85 + 0.05 * n)
        self.down()

    def test_a_job_that_waits_for_its_trainer_keeps_its_daemon(self):
        job = self.start([BIN / "ikkuna", "run", "--data-dir", self.data, "--linger", "0.3", "--", "sh", "-c",
                          f"sleep 3; {BIN}/ikkuna status"])
        job.expect_success()
        self.assertIn("ikkuna-daemon", job.log())
        self.down()

    def test_one_that_dies_is_not_taken_for_one_that_serves(self):
        """Killed with much memory, it takes connections until that is given back."""
        up = [BIN / "ikkuna", "up", "--data-dir", self.data]
        self.start(up).expect_success()
        for _ in range(10):
            self.start([TEST_BIN / "c_job", "--steps", "3000", "--us", "0", "--rows", "1000"],
                       IKKUNA_WAIT_MS="120000").expect_success()
            (pid,) = self.alive()
            os.kill(pid, signal.SIGKILL)
            next_up = self.start(up)
            next_up.expect_success()
            self.assertNotIn(f"process {pid})", next_up.log())
            subprocess.run([BIN / "ikkuna", "status"], env=self.environment, capture_output=True, check=True, timeout=WATCHDOG_S)
        self.down()

    def test_one_that_was_killed_or_stopped(self):
        up = [BIN / "ikkuna", "up", "--data-dir", self.data]
        first = self.start(up)
        first.expect_success()
        pid = int(re.search(r"process (\d+)", first.log()).group(1))
        os.kill(pid, signal.SIGKILL)
        harness.wait_until(lambda: pid not in self.alive(), "it does not die")
        second = self.start(up)
        second.expect_success()
        self.assertIn("was started", second.log())
        pid = int(re.search(r"process (\d+)", second.log()).group(1))
        os.kill(pid, signal.SIGSTOP)
        state = pathlib.Path(f"/proc/{pid}/stat")  # a thread that sleeps stops when it is scheduled
        harness.wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "it does not stop")
        stopped = self.start(up)
        self.assertEqual(stopped.wait(), 3)
        self.assertIn("is stopped", stopped.log())
        self.down()

    def down(self):
        self.start([BIN / "ikkuna", "down"]).expect_success()
        self.assert_nothing_left()


if __name__ == "__main__":
    harness.main()
