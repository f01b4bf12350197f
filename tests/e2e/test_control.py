"""What the daemon does to a trainer by leave: the budget stretches periods and gives them back, freeze and thaw."""

import re
import signal
import subprocess
import time

import harness
from harness import BIN, TEST_BIN, WATCHDOG_S, main, pb, wait_until

LONG_STEP_US = 40000


class ControlTest(harness.Site):
    def start_paced(self, *arguments):
        """Ends when it is asked to; `--frozen f1` for one whose trainer itself holds a layer still."""
        self.log = self.root / "log"
        self.pace = self.root / "pace"
        self.set_pace(0)
        self.trainer = self.start([TEST_BIN / "paced_trainer", "--log", self.log, "--pace", self.pace, *arguments],
                                  IKKUNA_WAIT_MS="120000")

    def set_pace(self, microseconds):
        """By renaming: the trainer never reads half a number."""
        fresh = self.root / "pace.new"
        fresh.write_text(f"{microseconds}\n")
        fresh.replace(self.pace)

    def steps(self):
        """[(step, loss, {module: hash, "trains": "111"})] of the lines that the trainer wrote in full."""
        lines = [line.split() for line in self.log.read_text().split("\n")[:-1]] if self.log.exists() else []
        return [(int(line[0]), float.fromhex(line[1]), dict(word.split("=") for word in line[2:])) for line in lines]

    def wait_for_steps(self, more):
        """Until the trainer has made so many steps from now; returns the number it has made then."""
        begin = len(self.steps())
        wait_until(lambda: len(self.steps()) >= begin + more or not self.trainer.running(), "the trainer stands still")
        self.assertTrue(self.trainer.running(), self.trainer.log())
        return len(self.steps())

    def stop_trainer(self):
        self.client.stub.Stop(pb.StopRequest(), timeout=WATCHDOG_S)
        self.trainer.expect_success()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.steps_total, len(self.steps()))

    def status_line(self, name):
        answer = subprocess.run([BIN / "ikkuna", "status"], env=self.environment, capture_output=True, text=True, timeout=WATCHDOG_S)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        [line] = [line for line in answer.stdout.splitlines() if line.split()[:1] == [name]]
        return line

    def test_periods_stretch_with_short_steps_and_recover_with_long_ones(self):
        self.start_daemon("--no-default", "--subscribe", "loss()", "--subscribe", "norm(weight_gradients, order=2)",
                          "--subscribe", "mean(activations)", "--subscribe", "variance(layer_gradients)")
        self.start_paced("--optimizer", "sgd")

        def factors():
            self.assertTrue(self.trainer.running(), self.trainer.log())
            producer = wait_until(self.client.producer, "the trainer is not seen")
            return producer.period_factors

        def delivered(begin, end):
            """Share of the steps from `begin` to `end` of which the gradients' norm is in the store."""
            [samples] = self.client.everything(topic="weight_gradients_norm2", module="f1").values()
            return len([step for step in samples if begin <= step < end]) / (end - begin)

        # Steps of 100 us, of which statistics at every step would be a third.
        wait_until(lambda: factors().summary >= 4, "the budget does not stretch periods")
        self.assertRegex(self.status_line("delivered"), r"of the steps asked for, .*statistics every \d+(st|nd|rd|th)\b")
        producer = self.client.producer()
        self.assertAlmostEqual(producer.budget, 0.01)
        short = self.wait_for_steps(2000)
        self.assertLess(delivered(short - 1000, short), 0.3)

        # With steps that take four hundred times as long there is room for all.
        self.set_pace(LONG_STEP_US)
        wait_until(lambda: factors().summary == 1 and factors().scalar == 1, lambda: f"no recovery: {factors()}")
        wait_until(lambda: "as asked" in self.status_line("delivered"), lambda: self.status_line("delivered"))

        def whole(count):
            """Whether everything came of the next `count` steps. The budget counts time: whoever preempts the trainer
            meanwhile may make it stretch a period for a moment."""
            begin = self.wait_for_steps(1)
            end = self.wait_for_steps(count)
            self.wait_for_steps(5)  # these may still be on their way
            return delivered(begin, end - 1) == 1

        wait_until(lambda: whole(50), lambda: f"not every step is delivered, the factors are {factors()}", 180)

        # And back.
        self.set_pace(0)
        wait_until(lambda: factors().summary >= 4, "the budget does not stretch periods again")
        self.stop_trainer()
        self.stop_daemon()
        self.assert_nothing_left()

    def test_waiting_for_a_daemon_is_no_cost(self):
        self.start_paced("--optimizer", "sgd")
        self.set_pace(LONG_STEP_US)
        time.sleep(1)  # a trainer that was told to wait stands at its first step
        self.assertEqual(self.steps(), [])
        self.start_daemon("--no-default", "--budget", "off", "--subscribe", "kurtosis(weights)", "--subscribe",
                          "kurtosis(weight_gradients)", "--subscribe", "kurtosis(layer_gradients)", "--subscribe",
                          "kurtosis(activations)")
        self.wait_for_steps(10)
        # The second that it stood is far more than what ten steps take.
        cost = self.client.producer().probe_cost
        self.assertLess(cost, 0.5)
        self.assertGreater(cost, 0)
        self.stop_trainer()
        self.stop_daemon()
        self.assert_nothing_left()

    def freeze_and_thaw(self, optimizer):
        self.start_daemon("--no-default", "--subscribe", "loss()")
        self.start_paced("--optimizer", optimizer)
        self.set_pace(200)
        self.wait_for_steps(50)  # momentum has gathered: it alone would move the weights on

        answer = self.client.stub.Freeze(pb.FreezeRequest(module="f2"), timeout=WATCHDOG_S)
        self.assertTrue(answer.text)
        frozen_at = self.wait_for_frozen("f2")
        self.wait_for_trains("101")
        still = self.wait_for_steps(100)
        self.client.stub.Unfreeze(pb.UnfreezeRequest(module="f2"), timeout=WATCHDOG_S)
        self.wait_for_trains("111")
        self.wait_for_steps(100)
        with self.assertRaisesRegex(harness.grpc.RpcError, "nothing.*has that|matches|no module"):
            self.client.stub.Freeze(pb.FreezeRequest(module="f9"), timeout=WATCHDOG_S)
        # All at once: backward would have nothing left to do and throw; the probe keeps one and says so.
        self.client.stub.Freeze(pb.FreezeRequest(module="*"), timeout=WATCHDOG_S)
        self.wait_for_trains("001")
        self.wait_for_steps(100)
        notes = list(wait_until(lambda: self.client.producer().notes, "no note says that the freeze was refused"))
        self.assertTrue([note for note in notes if note.startswith("freeze refused")], notes)
        last = self.wait_for_steps(50)
        modules = self.client.stub.ListModules(pb.ListModulesRequest(), timeout=WATCHDOG_S).modules
        self.assertEqual({module.name: {param.trainable for param in module.parameters} for module in modules if module.parameters},
                         {"f1": {False}, "f2": {False}, "f3": {True}})
        self.stop_trainer()
        told = [(event.kind, event.text) for event in self.client.events() if event.kind in ("frozen", "thawed", "note")]
        self.assertEqual([kind for kind, _ in told[:2]], ["frozen", "thawed"], told)
        for _, text in told[:2]:
            self.assertIn("f2.weight, f2.bias", text)
            self.assertNotIn("f1", text)
        self.assertTrue([text for kind, text in told if kind == "note" and "freeze refused" in text], told)

        steps = self.steps()
        moved = {name: [step for step, _, now in steps[1:last] if now[name] != steps[step - 1][2][name]]
                 for name in ("f1", "f2", "f3")}
        # From the step of the command on, not when the momentum has run out some hundred steps later.
        off = [step for step, _, now in steps[:still] if now["trains"][1] == "0"]
        self.assertEqual(off, list(range(off[0], still)))
        self.assertEqual({steps[step][2]["f2"] for step in off}, {steps[off[0]][2]["f2"]})
        # While f2 stood still the others moved at every step, before and afterwards f2 did, too.
        hold = [step for step in range(1, still) if step not in set(moved["f2"])]
        self.assertEqual(hold, list(range(hold[0], still)), "frozen weights are bit-equal from one step on")
        self.assertLessEqual(hold[0], frozen_at)
        thawed = min(step for step in moved["f2"] if step >= still)
        refrozen = max(moved["f2"])
        self.assertEqual([step for step in moved["f2"] if step >= still], list(range(thawed, refrozen + 1)))
        self.assertGreater(refrozen - thawed, 50, "thawed weights move")
        self.assertEqual([step for step in range(1, thawed) if step not in set(moved["f1"])], [])
        self.assertEqual([step for step in range(1, last) if step not in set(moved["f3"])], [], "the last one trains on")
        self.assertLess(max(moved["f1"]), last - 50, "frozen with `*`")
        self.stop_daemon()
        self.assert_nothing_left()

    def wait_for_trains(self, layers):
        """Until the trainer has done what was asked: which layers train now."""
        def done():
            self.assertTrue(self.trainer.running(), self.trainer.log())
            return self.steps()[-1][2]["trains"] == layers
        wait_until(done, lambda: f"not these layers train: {layers}, but {self.steps()[-1]}")

    def wait_for_frozen(self, module):
        """The first step after which the module stood still for ten steps."""
        def still():
            steps = self.steps()[-11:]
            self.assertTrue(self.trainer.running(), self.trainer.log())
            return steps[0][0] + 1 if len({hashes[module] for _, _, hashes in steps}) == 1 else None
        return wait_until(still, f"{module} goes on moving")

    def test_what_the_trainer_holds_still_is_not_thawed(self):
        self.start_daemon("--no-default", "--subscribe", "loss()")
        self.start_paced("--optimizer", "sgd", "--frozen", "f1")
        self.set_pace(200)
        self.wait_for_steps(20)
        for module in ("f1", "f2"):
            self.client.stub.Freeze(pb.FreezeRequest(module=module), timeout=WATCHDOG_S)
        self.wait_for_frozen("f2")
        self.client.stub.Unfreeze(pb.UnfreezeRequest(module="*"), timeout=WATCHDOG_S)
        wait_until(lambda: len({hashes["f2"] for _, _, hashes in self.steps()[-5:]}) == 5, "f2 does not thaw")
        self.wait_for_steps(20)
        self.stop_trainer()
        self.assertEqual(len({hashes["f1"] for _, _, hashes in self.steps()}), 1)
        self.stop_daemon()

    def test_a_freeze_that_changes_nothing_says_so(self):
        self.start_daemon("--no-default", "--subscribe", "loss()")
        self.start_paced("--optimizer", "sgd", "--frozen", "f1")
        self.set_pace(200)
        self.wait_for_steps(20)

        def noted(pattern):
            def found():
                self.assertTrue(self.trainer.running(), self.trainer.log())
                return [event for event in self.client.events() if event.kind == "note" and re.search(pattern, event.text)]
            return wait_until(found, lambda: f"no note says '{pattern}': {self.client.events()}")

        self.client.stub.Unfreeze(pb.UnfreezeRequest(module="f2"), timeout=WATCHDOG_S)
        noted(r"^unfreeze after step \d+ leaves as it was: f2\.weight, f2\.bias, which no client froze$")
        self.client.stub.Freeze(pb.FreezeRequest(module="f1"), timeout=WATCHDOG_S)
        noted(r"^freeze after step \d+ leaves as it was: f1\.weight, f1\.bias, which did not train$")

        # What was told once is not told again by a daemon that takes the trainer over.
        told = [event.text for event in self.client.events() if event.kind == "note"]
        time.sleep(2)  # what was answered from memory is kept by then
        self.daemon.signal(signal.SIGKILL)
        self.daemon.wait()
        self.client.close()
        self.start_daemon("--no-default", "--subscribe", "loss()")
        wait_until(lambda: self.client.producer() and len(self.client.producer().notes) == len(told), "the notes are lost")
        self.wait_for_steps(20)
        self.client.stub.Freeze(pb.FreezeRequest(module="f1"), timeout=WATCHDOG_S)
        wait_until(lambda: len(self.client.producer().notes) == len(told) + 1, "the new one does not come")
        wait_until(lambda: len([event for event in self.client.events() if event.kind == "note"]) > len(told), "it is not told")
        again = [event.text for event in self.client.events() if event.kind == "note"]
        self.assertEqual(again[:-1], told)
        self.assertEqual(len(set(again)), len(again))
        self.stop_trainer()
        self.stop_daemon()
        self.assert_nothing_left()

    def test_frozen_weights_stand_still_with_momentum(self):
        self.freeze_and_thaw("sgd")

    def test_frozen_weights_stand_still_with_adam(self):
        self.freeze_and_thaw("adam")


if __name__ == "__main__":
    main()
