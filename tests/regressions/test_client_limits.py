"""What clients and machines with limits meet: messages of a default size, files that may not grow, tensors that can never
fit, names that are not printable."""

import pathlib
import re
import resource
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import BIN, SOURCE, TEST_BIN, WATCHDOG_S, Site, main, pb, pb_grpc, wait_until  # noqa: E402

import grpc  # noqa: E402


class ClientLimits(Site):
    def job(self, *arguments, **environment):
        return self.start([TEST_BIN / "c_job", *[str(word) for word in arguments]],
                          **{"IKKUNA_WAIT_MS": "120000", **environment})

    def limited(self, start, kilobytes):
        """What `start` starts may write no file beyond so many kilobytes."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, before[1]))
        try:
            return start()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_a_client_with_its_default_limits_reads_a_quarter_of_a_million_losses(self):
        self.start_daemon("--budget", "off", "--subscribe", "loss")
        self.job("--steps", 250000, "--us", 0).expect_success()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        with grpc.insecure_channel(f"unix:{self.meeting}/grpc.sock") as channel:
            stub = pb_grpc.MonitorStub(channel)
            steps, values = [], []
            request = pb.ReadSamplesRequest(filter=pb.SeriesFilter(run="latest", topic="loss"))
            for answer in stub.ReadSamples(request, timeout=WATCHDOG_S):
                for columns in answer.columns:
                    steps += columns.steps
                    values += columns.numbers
        self.assertEqual(steps, sorted(set(steps)))
        self.assertEqual(values, [1.0 + step for step in steps])
        # A full ring may cost this fastest of trainers some: then they are counted.
        lost = sum(count.count for count in producer.accounting.drops) + sum(count.count for count in producer.missing)
        self.assertGreaterEqual(len(steps) + lost, 250000)

    def test_the_example_in_the_readme_reads_a_million_losses(self):
        [example] = re.findall(r"```python\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)
        example, replaced = re.subn(r"unix:/tmp/ikkuna-\d+/grpc.sock", f"unix:{self.meeting}/grpc.sock", example)
        self.assertEqual(replaced, 1, example)
        self.start_daemon("--budget", "off")
        count = 1000000
        losses = self.root / "losses"
        losses.write_text("".join(f"{step},{step}.5\n" for step in range(count)))
        with open(losses, "rb") as file:
            published = subprocess.run([BIN / "ikkuna", "publish", "loss", "--own-run", "long", "--end"], stdin=file,
                                       env=self.environment, capture_output=True, text=True, timeout=WATCHDOG_S)
        self.assertEqual(published.returncode, 0, published.stderr)
        # The stubs, which its first line makes, are there already.
        read = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=WATCHDOG_S,
                              env={**self.environment, "PYTHONPATH": str(pathlib.Path(pb.__file__).parents[2])})
        self.assertEqual(read.returncode, 0, read.stderr)
        pairs = []
        for line in read.stdout.splitlines():
            tag, part = line.split(" ", 1)
            self.assertEqual(tag, "default")
            pairs += [pair.split(", ") for pair in part[2:-2].split("), (")]
        self.assertEqual(len(pairs), count)
        self.assertEqual([(int(step), float(value)) for step, value in pairs], [(step, step + .5) for step in range(count)])

    def test_a_daemon_whose_files_may_not_grow_says_so_and_goes_on(self):
        self.limited(lambda: self.start_daemon("--budget", "off", "--subscribe",
                                               "loss; mean(weights); std(weights); norm(weights)"), 3000)
        self.job("--steps", 60000, "--us", 50).expect_success()
        self.settled_producer()
        self.assertTrue(self.daemon.running())
        wait_until(lambda: "file too large" in self.daemon.log().lower(),
                   lambda: f"nothing is said of the limit:\n{self.daemon.log()[-2000:]}")

    def test_a_trainer_whose_files_may_not_grow_trains_on_unwatched(self):
        for with_daemon in (False, True):
            if with_daemon:
                self.start_daemon()
            job = self.limited(lambda: self.job("--steps", 5, IKKUNA_WAIT_MS="0"), 1000)
            job.expect_success()
            self.assertIn("ulimit -f", job.log())

    def test_a_tensor_that_can_never_fit_goes_as_its_statistics(self):
        self.start_daemon("--budget", "off", "--subscribe", "loss; mean(weights); norm(weights, order=3)")
        self.job("--steps", 20, "--rows", 1000, "--us", 20000, IKKUNA_ARENA_MB="1").expect_success()
        producer = self.settled_producer()
        [losses] = self.client.everything(run="latest", topic="loss").values()
        self.assertEqual(losses, {step: 1.0 + step for step in range(20)})
        [means] = self.client.everything(run="latest", topic="weights_mean").values()
        self.assertEqual(means, {step: 1.0 for step in range(20)})
        self.assertEqual(self.client.everything(run="latest", topic="weights_norm3"), {})
        missing = {count.reason: count.count for count in producer.missing}
        self.assertEqual(missing.get("no_tensor"), 20, str(producer))
        self.assertIn("do not fit into the arena", " ".join(producer.notes))
        self.assert_accounts(producer)

    def test_names_cannot_write_to_the_log(self):
        self.start_daemon()
        self.job("--steps", 5, "--run", "evil\nname\x1b[31m").expect_success()
        self.settled_producer()
        wait_until(lambda: "evil" in self.daemon.log(), "the run is not in the log")
        self.assertNotIn("\x1b", self.daemon.log())
        self.assertFalse(any(line.startswith("name") for line in self.daemon.log().splitlines()))


if __name__ == "__main__":
    main()
