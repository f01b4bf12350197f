"""Jobs that share a name, come back or count anew; machines with limits; tensors that can never fit; names that are not
printable. Every number stays under the run that it belongs to, and what cannot be done is said."""

import pathlib
import resource
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import SOURCE, Site, main, pb, wait_until, WATCHDOG_S  # noqa: E402

import os  # noqa: E402

TEST_BIN = pathlib.Path(os.environ.get("IKKUNA_TEST_BIN_DIR", SOURCE / "build/release/tests"))


class Jobs(Site):
    def job(self, *arguments, **environment):
        return self.start([TEST_BIN / "c_job", *[str(word) for word in arguments]],
                          **{"IKKUNA_WAIT_MS": "20000", **environment})

    def limited(self, start, kilobytes):
        """What `start` starts may write no file beyond so many kilobytes."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, before[1]))
        try:
            return start()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def ended(self, count):
        """Every run of the store, by name and attempt, once `count` of them have ended."""
        runs = []

        def all_ended():
            runs[:] = self.client.stub.ListRuns(pb.ListRunsRequest(), timeout=WATCHDOG_S).runs
            runs[:] = [run for run in runs if run.key.run_id != "ikkuna-daemon"]
            return len(runs) == count and all(run.state == pb.PRODUCER_STATE_FINISHED for run in runs)

        wait_until(all_ended, lambda: f"not {count} runs that ended: {runs}", 60)
        return sorted(runs, key=lambda run: (run.key.run_id, run.key.attempt))

    def losses(self, run):
        key = run.key
        (series,) = self.client.series(run=key.run_id, attempt=key.attempt, rank=key.rank, topic="loss")
        return {sample.step: sample.value for sample in self.client.samples(series.series.id)}

    def test_each_life_under_a_schedulers_id_is_an_attempt(self):
        self.start_daemon("--budget", "off", "--subscribe", "loss")
        for life in range(3):
            self.job("--steps", 12, "--loss", 100 * life, SLURM_JOB_ID="4711").expect_success()
        runs = self.ended(3)
        self.assertEqual([(run.key.run_id, run.key.attempt) for run in runs], [("4711", n) for n in range(3)])
        for life, run in enumerate(runs):
            self.assertEqual(self.losses(run), {step: 100.0 * life + step for step in range(12)})

    def test_attempts_go_on_over_a_restart_of_the_daemon(self):
        for life in range(2):
            self.start_daemon("--budget", "off", "--subscribe", "loss")
            self.job("--steps", 5, "--loss", 100 * life, IKKUNA_RUN_ID="again").expect_success()
            runs = self.ended(life + 1)
            self.stop_daemon()
        self.assertEqual([run.key.attempt for run in runs], [0, 1])

    def test_two_jobs_at_once_under_one_id_are_two_runs(self):
        self.start_daemon("--budget", "off", "--subscribe", "loss")
        go = self.root / "go"
        jobs = []
        for base in (100, 200):
            jobs.append(self.job("--steps", 12, "--loss", base, "--wait-for", go, IKKUNA_RUN_ID="same"))
            wait_until(lambda: len(self.client.status().producers) == len(jobs), "the job does not come", 60)
        go.touch()
        for job in jobs:
            job.expect_success()
        runs = self.ended(2)
        self.assertEqual([run.key.run_id for run in runs], ["same", "same~2"])
        for base, run in zip((100, 200), runs):
            self.assertEqual(self.losses(run), {step: 1.0 * base + step for step in range(12)})
        self.assertTrue(any("same~2" in event.text for event in self.client.events()), "no note names the new run")

    def test_the_word_none_is_no_id_and_folds_are_attempts(self):
        self.start_daemon("--budget", "off", "--subscribe", "loss")
        for _ in range(2):
            self.job("--steps", 5, TORCHELASTIC_RUN_ID="none").expect_success()
        self.assertEqual(len({run.key.run_id for run in self.ended(2)} - {"none"}), 2)
        self.job("--steps", 5, "--folds", 3, IKKUNA_RUN_ID="folds").expect_success()
        folds = [run for run in self.ended(5) if run.key.run_id == "folds"]
        self.assertEqual([run.key.attempt for run in folds], [0, 1, 2])
        for run in folds:
            self.assertEqual(self.losses(run), {step: 1.0 + step for step in range(5)})

    def test_steps_that_go_back_are_refused_with_a_sentence(self):
        self.start_daemon("--budget", "off", "--subscribe", "loss")
        job = self.job("--steps", 15, "--epoch-steps", 5)
        job.expect_success()
        (run,) = self.ended(1)
        self.assertEqual(self.losses(run), {step: 1.0 + step for step in range(5)})
        self.assertIn("count on over the epochs", job.log())
        self.assertIn("count on over the epochs", " ".join(self.client.producer().notes))

    def test_a_trainer_whose_files_may_not_grow_trains_on_unwatched(self):
        for with_daemon in (False, True):
            if with_daemon:
                self.start_daemon()
            job = self.limited(lambda: self.job("--steps", 5, IKKUNA_WAIT_MS="0"), 1000)
            job.expect_success()
            self.assertIn("ulimit -f", job.log())

    def test_a_daemon_whose_files_may_not_grow_says_so_and_goes_on(self):
        self.limited(lambda: self.start_daemon("--budget", "off", "--no-health", "--subscribe",
                                               "loss; mean(weights); std(weights); norm(weights)"), 3000)
        self.job("--steps", 60000, "--us", 20).expect_success()
        self.settled_producer()
        wait_until(lambda: any(word in self.daemon.log() for word in ("cannot write", "too large", "disk", "full")),
                   lambda: f"nothing is said of the limit:\n{self.daemon.log()[-2000:]}", 60)
        self.assertTrue(self.daemon.running())

    def test_a_tensor_that_can_never_fit_goes_as_its_statistics(self):
        self.start_daemon("--budget", "off", "--subscribe", "loss; mean(weights); norm(weights, order=3)")
        self.job("--steps", 20, "--rows", 1000, "--us", 20000, IKKUNA_ARENA_MB="1").expect_success()
        (run,) = self.ended(1)
        self.assertEqual(self.losses(run), {step: 1.0 + step for step in range(20)})
        means = self.client.everything(run=run.key.run_id, topic="weights_mean")
        (values,) = means.values()
        self.assertEqual(values, {step: 1.0 for step in range(20)})
        producer = self.client.producer()
        self.assertIn("do not fit into the arena", " ".join(producer.notes))
        self.assert_accounts(producer)

    def test_names_cannot_write_to_the_log(self):
        self.start_daemon()
        self.job("--steps", 5, "--run", "evil\nname\x1b[31m").expect_success()
        self.settled_producer()
        wait_until(lambda: "evil" in self.daemon.log(), "the run is not in the log", 60)
        self.assertNotIn("\x1b[31m", self.daemon.log())
        self.assertFalse(any(line.startswith("name") for line in self.daemon.log().splitlines()))


if __name__ == "__main__":
    main()
