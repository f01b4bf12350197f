"""Jobs that share a name, come back, go on or count anew: every number stays, under the run that it belongs to."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import BIN, SOURCE, TEST_BIN, WATCHDOG_S, Site, main, pb, wait_until  # noqa: E402

import json  # noqa: E402
import subprocess  # noqa: E402


class RunsNeverMix(Site):
    def setUp(self):
        super().setUp()
        self.start_daemon("--budget", "off", "--subscribe", "loss; mean(weights)")

    def job(self, *arguments, **environment):
        environment = {"IKKUNA_WAIT_MS": "120000", **environment}
        return self.start([TEST_BIN / "c_job", *[str(word) for word in arguments]], **environment)

    def ended(self, count):
        """Every run of the store, once `count` of them have ended."""
        runs = []

        def all_ended():
            runs[:] = self.client.stub.ListRuns(pb.ListRunsRequest(), timeout=WATCHDOG_S).runs
            return len(runs) == count and all(run.state == pb.PRODUCER_STATE_FINISHED for run in runs)

        wait_until(all_ended, lambda: f"not {count} runs that ended: {runs}")
        return runs

    def losses(self, key, **more):
        """{step: loss} of one run, every attempt and rank of it or one."""
        found = {}
        request = pb.ReadSamplesRequest(filter=pb.SeriesFilter(run=key.run_id, topic="loss", **more))
        if not more:
            request.filter.attempt, request.filter.rank = key.attempt, key.rank
        for answer in self.client.stub.ReadSamples(request, timeout=WATCHDOG_S):
            for columns in answer.columns:
                for step, value in zip(columns.steps, columns.numbers):
                    self.assertNotIn(step, found)
                    found[step] = value
        return found

    def expected(self, base, steps, start=0):
        return {step: base + step for step in range(start, start + steps)}

    def test_three_lives_under_one_scheduler_id(self):
        for life in range(3):
            self.job("--steps", 12, "--loss", 100 * life, SLURM_JOB_ID="4711", SLURM_STEP_ID="0").expect_success()
        runs = sorted(self.ended(3), key=lambda run: run.key.attempt)
        self.assertEqual([run.key.attempt for run in runs], [0, 1, 2])
        self.assertEqual(len({run.key.run_id for run in runs}), 1)
        for life, run in enumerate(runs):
            self.assertEqual(self.losses(run.key), self.expected(100 * life, 12))
            self.assertFalse(run.HasField("continues"), str(run))

    def test_the_schedulers_own_count_is_the_attempt(self):
        for count in (0, 3):
            self.job("--steps", 5, "--loss", 100 * count, SLURM_JOB_ID="4711", SLURM_RESTART_COUNT=str(count)
                     ).expect_success()
        runs = sorted(self.ended(2), key=lambda run: run.key.attempt)
        self.assertEqual([run.key.attempt for run in runs], [0, 3])
        for run in runs:
            self.assertEqual(self.losses(run.key), self.expected(100 * run.key.attempt, 5))

    def test_attempts_go_on_over_a_restart_of_the_daemon(self):
        for life in range(3):
            self.job("--steps", 5, "--loss", 100 * life, IKKUNA_RUN_ID="again").expect_success()
            runs = sorted(self.ended(life + 1), key=lambda run: run.key.attempt)
            self.assertEqual([run.key.attempt for run in runs], list(range(life + 1)))
            for before, run in enumerate(runs):
                self.assertEqual(self.losses(run.key), self.expected(100 * before, 5))
            self.stop_daemon()
            self.start_daemon("--budget", "off", "--subscribe", "loss; mean(weights)")

    def test_two_jobs_at_once_under_one_id(self):
        go = self.root / "go"
        first = self.job("--steps", 12, "--loss", 100, "--wait-for", go, IKKUNA_RUN_ID="same")
        wait_until(lambda: self.client.status().producers, "the first job does not come")
        second = self.job("--steps", 12, "--loss", 200, "--wait-for", go, IKKUNA_RUN_ID="same")
        wait_until(lambda: len(self.client.status().producers) == 2, "the second job does not come")
        go.touch()
        first.expect_success()
        second.expect_success()
        runs = {run.key.run_id: run for run in self.ended(2)}
        self.assertEqual(sorted(runs), ["same", "same~2"])
        self.assertEqual(self.losses(runs["same"].key), self.expected(100, 12))
        self.assertEqual(self.losses(runs["same~2"].key), self.expected(200, 12))
        self.assertTrue(any("same~2" in event.text for event in self.client.events()), "no note names the new run")

    def test_none_is_no_id(self):
        for base in (100, 200):
            self.job("--steps", 5, "--loss", base, TORCHELASTIC_RUN_ID="none").expect_success()
        runs = self.ended(2)
        self.assertEqual(len({run.key.run_id for run in runs}), 2)
        self.assertNotIn("none", {run.key.run_id for run in runs})

    def test_folds_of_one_process(self):
        self.job("--steps", 5, "--folds", 4, IKKUNA_RUN_ID="folds").expect_success()
        runs = sorted(self.ended(4), key=lambda run: run.key.attempt)
        self.assertEqual([(run.key.run_id, run.key.attempt) for run in runs], [("folds", n) for n in range(4)])
        for run in runs:
            self.assertEqual(self.losses(run.key), self.expected(1, 5))

    def test_a_resumed_run_is_one_line_and_nothing_is_written_over(self):
        self.check_resumed()

    def test_a_run_that_only_says_that_it_goes_on_does_so_from_its_first_step(self):
        self.check_resumed("--resume", 1)

    def check_resumed(self, *how):
        self.job("--steps", 10, "--loss", 100, IKKUNA_RUN_ID="resumed").expect_success()
        self.job("--steps", 10, "--loss", 200, "--start", 5, *how, IKKUNA_RUN_ID="resumed").expect_success()
        first, second = sorted(self.ended(2), key=lambda run: run.key.attempt)
        self.assertEqual(second.continues, first.key.attempt)
        self.assertTrue(second.HasField("continues"))
        self.assertEqual(second.start_step, 5)
        self.assertEqual(self.losses(first.key), self.expected(100, 10))
        self.assertEqual(self.losses(second.key), self.expected(200, 10, 5))
        line = {}
        request = pb.ReadSamplesRequest(filter=pb.SeriesFilter(run="resumed", topic="loss"), merge_attempts=True)
        for answer in self.client.stub.ReadSamples(request, timeout=WATCHDOG_S):
            for columns in answer.columns:
                for step, value in zip(columns.steps, columns.numbers):
                    self.assertNotIn(step, line)
                    line[step] = value
        whole = {**self.expected(100, 5), **self.expected(200, 10, 5)}
        self.assertEqual(line, whole)
        self.stop_daemon()
        # TensorBoard's own reader drops what was overtaken.
        seen = json.loads(subprocess.run([sys.executable, SOURCE / "tests/daemon/sinks/read_event_files.py",
                                          self.data / "tensorboard"], capture_output=True, check=True, timeout=120).stdout)
        curves = [scalars for folder in seen.values() for name, scalars in folder["scalars"].items() if name == "loss"]
        self.assertEqual(len(curves), 1, sorted(seen))
        self.assertEqual({step: float(value) for step, _, value in curves[0]}, whole)

    def test_steps_that_go_back_are_refused_with_a_sentence(self):
        job = self.job("--steps", 15, "--epoch-steps", 5)
        job.expect_success()
        (run,) = self.ended(1)
        self.assertEqual(self.losses(run.key), self.expected(1, 5))
        texts = [event.text for event in self.client.events() if "start" in event.text or "count" in event.text]
        self.assertTrue(texts, f"no event says what to do: {self.client.events()}")
        producer = self.client.producer()
        self.assertIn("count on over the epochs", job.log())
        self.assertIn("count on over the epochs", " ".join(producer.notes))
        counts = {one.series.key.topic: one.count for one in self.client.series(run=run.key.run_id)}
        self.assertEqual((counts["loss"], counts["weights_mean"]), (5, 5))
        self.assertLessEqual(max(counts.values()), 5, str(counts))


if __name__ == "__main__":
    main()
