"""Trainers that fork, and trainers with several threads on one model."""

import os
import pathlib
import signal

import harness
import losses
from harness import main, pb, wait_until
from losses import SUBSCRIBERS

FORKER_STEPS = 400
# The program makes a worker every 40 steps, in turn with libc's fork() and the bare system call.
WORKERS = ["fork exit 0", "clone exit 0", "fork _exit 0", "clone _exit 0"]
THREADS, STEPS_EACH = 4, 500
LATE_STEPS = 100


class ForksAndThreadsTest(losses.LossSite):
    def start_forker(self, *arguments, **environment):
        self.losses = self.root / f"losses-{len(self.processes)}"
        self.trainer = self.start([harness.TEST_BIN / "forking_trainer", "--losses", self.losses, "--steps", FORKER_STEPS,
                                   *arguments], **environment)

    def test_workers_are_inert_and_the_trainer_goes_on(self):
        self.start_forker(IKKUNA="off")
        self.trainer.expect_success()
        bare = self.losses.read_text().splitlines()
        self.assertEqual(len(bare), FORKER_STEPS)

        self.start_daemon(*SUBSCRIBERS)
        self.start_forker("--children", self.root / "children", IKKUNA_WAIT_MS="120000")
        self.trainer.expect_success()
        workers = (self.root / "children").read_text().splitlines()
        self.assertEqual(workers, [WORKERS[i % 4] for i in range(FORKER_STEPS // 40)], self.trainer.log())
        self.assertEqual(self.losses.read_text().splitlines(), bare)

        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.accounting.lost_in_daemon + producer.accounting.killed, 0)
        self.assertEqual(producer.steps_total, FORKER_STEPS)
        self.assertEqual(producer.coverage, 1)
        self.assertEqual([root.name for root in producer.roots], ["model"])
        self.assertEqual([fact for fact in producer.facts if fact.name == "worker"], [])
        self.assertEqual(self.client.series(param="worker") + self.client.series(tag="worker"), [])
        self.assertEqual(len(self.client.status().producers), 1)
        if producer.accounting.dropped == 0:
            self.assertEqual(self.loss_steps(bare), list(range(FORKER_STEPS)))
        self.finish()

    def test_killed_while_a_worker_lives(self):
        self.start_daemon(*SUBSCRIBERS)
        stay = self.root / "worker"
        self.start_forker("--stay", stay, IKKUNA_WAIT_MS="120000")
        worker = int(wait_until(lambda: stay.exists() and stay.read_text().strip(), "no worker is made"))
        self.wait_for_step(FORKER_STEPS)
        # The worker has what the trainer had open: the daemon's end of the socket does not hear of the death.
        links = lambda pid: {os.readlink(link) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()}
        shared = [link for link in links(worker) & links(self.trainer.pid) if link.startswith("socket:")]
        self.assertEqual(len(shared), 1, shared)
        os.kill(self.trainer.pid, signal.SIGKILL)
        self.assertEqual(self.trainer.wait(), -signal.SIGKILL)

        producer = self.settled_producer("DIED")
        self.assertIn(shared[0], links(worker), "the worker was to live on")
        self.assert_accounts(producer)
        self.assertLessEqual(producer.accounting.killed, 1)
        made = self.steps_made()
        self.assertLessEqual(abs(producer.steps_total - made), 1)
        wait_until(lambda: [e for e in self.client.events() if e.kind == "run_ended" and "died" in e.text], "no event says so")
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not any(str(worker) in line for line in self.leftovers()), "the worker does not end")
        self.assertGreater(len(self.loss_steps(self.losses.read_text().splitlines() + ["0x0p+0"])), FORKER_STEPS // 2)
        self.finish()

    def test_several_threads_train_one_model(self):
        self.start_daemon("--no-default", "--budget", "off", "--subscribe", "loss()", "--subscribe",
                          "norm(weight_gradients, order=2)")
        trainer = self.start([harness.TEST_BIN / "hogwild_trainer", "--threads", THREADS, "--steps", STEPS_EACH],
                             IKKUNA_WAIT_MS="120000")
        trainer.expect_success()
        made = THREADS * STEPS_EACH
        self.assertIn(f"made {made} steps", trainer.log())
        producer = self.settled_producer()
        self.assert_accounts(producer)
        a = producer.accounting
        self.assertEqual(producer.steps_total, made)
        [root] = producer.roots
        self.assertEqual((root.step, root.steps_due), (made, made))
        # Of each step: two markers and that of its pass, the loss, the gradients of three layers.
        self.assertEqual(a.attempted, 7 * made)
        self.assertEqual(a.lost_in_daemon + a.killed, 0)
        # Until a thread is seen to write for itself, another's write may take its pass over: that step lacks it.
        if a.dropped == 0:
            self.assertGreaterEqual(root.steps_observed, made - THREADS)
        found = self.client.everything()
        self.assertEqual(sorted((module, topic) for _, _, module, _, topic in found),
                         [("", "loss")] + [(module, "weight_gradients_norm2") for module in ("f1", "f2", "f3")])
        for name, samples in found.items():
            # Every step has a number of its own; a thread that ends leaves the one that it had taken next unused.
            self.assertLessEqual(len(samples), made, name)
            self.assertLess(max(samples), made + THREADS, name)
            missing = THREADS if name[-1] == "loss" else 0
            self.assertGreaterEqual(len(samples), made - a.dropped - missing, name)
        self.finish()

    def test_a_thread_that_begins_late_in_anothers_backward_is_told_of(self):
        self.start_daemon("--no-default", "--budget", "off", "--subscribe", "loss()", "--subscribe",
                          "norm(weight_gradients, order=2)")
        trainer = self.start([harness.TEST_BIN / "hogwild_trainer", "--late", LATE_STEPS], IKKUNA_WAIT_MS="120000")
        trainer.expect_success()
        self.assertIn(f"made {LATE_STEPS + 1} steps", trainer.log())
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.accounting.dropped, 0)
        self.assertEqual(producer.steps_total, LATE_STEPS + 1)
        # The late thread closes its step first, with a number of its own: the other's were taken before.
        [note] = [note for note in producer.notes if "was not heard" in note]
        self.assertRegex(note, rf"^step {LATE_STEPS} of model was the first of a thread that began late")
        [losses_found] = self.client.everything(topic="loss").values()
        self.assertEqual(sorted(losses_found), list(range(LATE_STEPS)))
        [gradients] = self.client.everything(topic="weight_gradients_norm2", module="f1").values()
        self.assertEqual(sorted(gradients), list(range(LATE_STEPS + 1)))
        self.finish()

    def test_a_freeze_takes_no_gradient_from_under_another_thread(self):
        self.start_daemon("--no-default", "--subscribe", "loss()")
        trainer = self.start([harness.TEST_BIN / "hogwild_trainer", "--threads", THREADS, "--steps", "100000000"], IKKUNA_WAIT_MS="120000")
        wait_until(lambda: self.client.producer() and self.client.producer().steps_total > 100, "the threads do not train")
        self.client.stub.Freeze(pb.FreezeRequest(module="f2"), timeout=harness.WATCHDOG_S)
        wait_until(lambda: any("several threads train" in note for note in self.client.producer().notes), "it is not refused")
        modules = self.client.stub.ListModules(pb.ListModulesRequest(), timeout=harness.WATCHDOG_S).modules
        self.assertEqual({param.trainable for module in modules for param in module.parameters}, {True})
        begin = self.client.producer().steps_total
        wait_until(lambda: self.client.producer().steps_total > begin + 1000, "the threads train no more")
        self.client.stub.Stop(pb.StopRequest(), timeout=harness.WATCHDOG_S)
        trainer.expect_success()
        self.settled_producer()
        self.finish()


if __name__ == "__main__":
    main()
