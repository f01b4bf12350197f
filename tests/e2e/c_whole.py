"""A trainer in C that uses the whole interface for very many steps: its memory at the end is what it was early on, nothing that
it does is refused, and every record is accounted for."""

import re

import harness
from harness import TEST_BIN

SUBSCRIBERS = ["loss()", "loss(tag=held_out)", "norm(weights, order=2)", "norm(weights, order=3)", "norm(weight_gradients)",
               "norm(bias_gradients)", "norm(weight_updates)", "mean(activations)", "norm(layer_gradients)", "learning_rate()"]
SLACK_KB = 2 * 1024


class Whole(harness.Site):
    """Without tests of its own, so that those who import it do not run them."""

    def run_steps(self, steps, pause_us, watchdog_s):
        # Whole tensors (order 3) and statistics in turn; what is logged by name comes by itself.
        self.start_daemon("--no-default", "--budget", "off", "--no-tensorboard", "--no-health", "--unready-s", "1", "--store-max-mb",
                          "64", *[word for text in SUBSCRIBERS for word in ("--subscribe", text)])
        trainer = self.start([TEST_BIN / "c_whole_trainer", steps, pause_us], IKKUNA_WAIT_MS="120000", IKKUNA_ARENA_MB="64")
        trainer.expect_success(watchdog_s)
        log = trainer.log()
        self.assertIn("refused 0\n", log)
        self.assertIn(f"tracked steps {steps}\n", log)
        early, late = map(int, re.search(r"memory kB early (\d+) late (\d+)", log).groups())
        print(f"memory kB early {early}, late {late}")
        self.assertLess(late, early + SLACK_KB, "the trainer's memory grows")
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assert_sinks_account()
        a = producer.accounting
        print(f"dropped {a.dropped} of {a.attempted}")
        self.assertEqual(a.lost_in_daemon + a.killed, 0)
        self.assertGreater(a.handled, 20 * steps if a.dropped == 0 else steps)
        # Its last step is skipped, which only the next one's gradients would show.
        self.assertEqual({root.name: root.step for root in producer.roots}, {"given": steps + 1, "tracked": steps - 1})
        if a.dropped == 0:
            # One of what is announced never comes; its step waits until too many ends of others wait behind it.
            missing = {count.reason: count.count for count in producer.missing}
            self.assertEqual(missing.get("unready", 0) + missing.get("crowded", 0), 1, missing)
        found = self.client.everything()
        for root in ("given", "tracked"):
            loss = found[("default", root, "", "", "loss")]
            self.assertGreater(max(loss), steps - 1000 - a.dropped)
            self.assertTrue(found[("held_out", root, "", "", "loss")])
            for topic, parameter in (("weights_norm2", "weight"), ("weight_gradients_norm2", "weight"),
                                     ("weight_updates_norm2", "weight"), ("bias_gradients_norm2", "bias")):
                self.assertTrue(found[("default", root, "fc", parameter, topic)], (root, topic))
        self.assertTrue(found[("default", "tracked", "fc", "", "layer_gradients_norm2")])
        self.stop_daemon()
        self.assert_nothing_left()
