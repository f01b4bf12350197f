"""A job of four ranks, each a process of its own: what a client asks of it happens on all of them at one step, or on none."""

import re

import harness
from harness import TEST_BIN, main, pb, wait_until

RANKS = 4


class JobTest(harness.Site):
    def start_ranks(self, ranks, *arguments):
        return [self.start([TEST_BIN / "c_job", "--run", "job", "--steps", 1000000, "--us", 2000, *arguments], RANK=str(rank),
                           WORLD_SIZE=str(RANKS), IKKUNA_RUN_ID="job", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500",
                           IKKUNA_WAIT_MS="120000") for rank in ranks]

    def wait_for_ranks(self, count):
        def running():
            producers = self.client.status().producers
            return len([p for p in producers if p.run.run_id == "job" and p.accounting.handled > 100]) == count

        wait_until(running, lambda: f"not {count} ranks train:\n{self.client.status()}")

    def stop_job(self):
        return self.client.stub.Stop(pb.StopRequest(run="job"), timeout=harness.WATCHDOG_S)

    def test_a_stop_acts_at_one_step_on_all_ranks(self):
        self.start_daemon("--no-default", "--subscribe", "loss")
        jobs = self.start_ranks(range(RANKS), "--until-stop", "1")
        self.wait_for_ranks(RANKS)
        text = self.stop_job().text
        steps = []
        for job in jobs:
            job.expect_success()
            steps.append(int(re.search(r"stopped after step (\d+)", job.log()).group(1)))
        self.assertEqual(len(set(steps)), 1, (text, steps))
        self.assertEqual([event.text for event in self.client.events() if event.kind == "split"], [])
        self.stop_daemon()
        self.assert_nothing_left()

    def test_a_stop_is_refused_where_a_rank_is_not_watched(self):
        self.start_daemon("--no-default", "--subscribe", "loss")
        jobs = self.start_ranks([0, 1, 3], "--until-stop", "1")
        self.wait_for_ranks(3)
        with self.assertRaisesRegex(harness.grpc.RpcError, "rank 2"):
            self.stop_job()
        self.assertTrue(all(job.running() for job in jobs))
        # Those that are named stop without it.
        self.client.stub.Stop(pb.StopRequest(run="job", ranks=[0, 1, 3]), timeout=harness.WATCHDOG_S)
        for job in jobs:
            job.expect_success()


if __name__ == "__main__":
    main()
