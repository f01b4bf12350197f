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

    def test_a_freeze_acts_at_one_step_on_all_ranks(self):
        self.start_daemon("--no-default", "--subscribe", "loss")
        pace = self.root / "pace"
        pace.write_text("2000\n")
        logs = [self.root / f"steps{rank}" for rank in range(2)]
        trainers = [self.start([TEST_BIN / "paced_trainer", "--optimizer", "sgd", "--log", log, "--pace", pace],
                               RANK=str(rank), WORLD_SIZE="2", IKKUNA_RUN_ID="job", MASTER_ADDR="127.0.0.1",
                               MASTER_PORT="29500", IKKUNA_WAIT_MS="120000") for rank, log in enumerate(logs)]
        self.wait_for_ranks(2)

        def turns(log):
            """The steps at which other layers train than at the step before, and which."""
            lines = [line.split() for line in log.read_text().split("\n")[:-1]]
            return [(int(now[0]), now[-1]) for before, now in zip(lines, lines[1:]) if now[-1] != before[-1]]

        def wait_for_turns(count):
            def turned():
                self.assertTrue(all(trainer.running() for trainer in trainers), [trainer.log() for trainer in trainers])
                return all(len(turns(log)) == count for log in logs)
            wait_until(turned, lambda: f"not {count} times on each rank: {[turns(log) for log in logs]}")

        self.client.stub.Freeze(pb.FreezeRequest(run="job", module="f2"), timeout=harness.WATCHDOG_S)
        wait_for_turns(1)
        self.client.stub.Unfreeze(pb.UnfreezeRequest(run="job", module="f2"), timeout=harness.WATCHDOG_S)
        wait_for_turns(2)
        self.stop_job()
        for trainer in trainers:
            trainer.expect_success()
        first, second = (turns(log) for log in logs)
        self.assertEqual([layers for _, layers in first], ["trains=101", "trains=111"])
        self.assertEqual(first, second, "at one step on both")
        lengths = [len(log.read_text().splitlines()) for log in logs]
        self.assertEqual(lengths[0], lengths[1], "both ended after one step")
        events = self.client.events()
        self.assertEqual([event.text for event in events if event.kind == "split"], [])
        for kind in ("frozen", "thawed"):
            told = sorted((event.run.rank, event.step) for event in events if event.kind == kind)
            self.assertEqual([rank for rank, _ in told], [0, 1], kind)
            self.assertEqual(told[0][1], told[1][1], kind)
        self.stop_daemon()
        self.assert_nothing_left()


if __name__ == "__main__":
    main()
