"""What is watched changes while the training runs; what nobody asks for any more is not even published."""

import harness
from harness import wait_until


class SubscribeLiveTest(harness.Site):
    def setUp(self):
        super().setUp()
        self.start_daemon("--no-default", "--budget", "off")
        self.trainer = self.start_trainer("--model", "tiny", "--epochs", "100000", "--test-images", "0", "--budget", "off")
        wait_until(lambda: (p := self.client.producer()) and p.roots and p.roots[0].step > 0, "the trainer is not seen")

    def step(self):
        return self.client.producer().roots[0].step

    def wait_steps(self, count):
        target = self.step() + count
        wait_until(lambda: self.step() >= target, "training stands still")

    def counters(self):
        return self.client.producer().accounting.attempted

    def topics(self):
        return {name[4] for name in self.client.everything()}

    def count(self, topic):
        return sum(summary.count for summary in self.client.series(topic=topic))

    def end(self):
        self.trainer.signal(harness.signal.SIGINT)
        self.trainer.expect_success()
        self.assert_accounts(self.settled_producer())
        self.stop_daemon()
        self.assert_nothing_left()

    def wait_for_silence(self):
        """Until a stretch of steps goes by without a single record."""
        def silent():
            before = self.counters()
            self.wait_steps(200)
            return self.counters() == before
        wait_until(silent, "records are published that nobody asked for")

    def test_nothing_subscribed_publishes_nothing(self):
        self.wait_for_silence()
        self.assertEqual(self.client.producer().accounting.attempted, 0)
        self.assertEqual(self.client.series(), [])
        self.end()

    def test_subscribe_and_unsubscribe(self):
        [loss] = self.client.subscribe("loss()")
        wait_until(lambda: self.count("loss") > 0, "no loss arrives")
        self.assertEqual(self.topics(), {"loss"})
        added = self.client.subscribe("mean(weights, subsample=10); norm(activations, order=3, module=layers.0)")
        self.assertEqual(len(added), 2)
        wait_until(lambda: self.count("weights_mean") > 0 and self.count("activations_norm3") > 0, "no results arrive")
        served = self.client.everything()
        self.assertEqual({name[2] for name in served if name[4] == "activations_norm3"}, {"layers.0"})
        for name, samples in served.items():
            if name[4] == "weights_mean":
                self.assertFalse([step for step in samples if step % 10], "subsample=10 delivers multiples of 10")
        self.assertEqual({s.id for s in self.client.subscribers()}, {loss.id, *(s.id for s in added)})

        for subscriber in added:
            self.assertEqual([s.id for s in self.client.unsubscribe(str(subscriber.id))], [subscriber.id])

        def only_loss():
            before, losses = self.count("weights_mean") + self.count("activations_norm3"), self.count("loss")
            self.wait_steps(100)
            return self.count("weights_mean") + self.count("activations_norm3") == before and self.count("loss") > losses
        wait_until(only_loss, "unsubscribed series still grow, or the loss does not")

        self.client.unsubscribe("loss")
        self.assertEqual(len(self.client.subscribers()), 0)
        self.wait_for_silence()

        # And again, to the same series.
        count = self.count("loss")
        self.client.subscribe("loss()")
        wait_until(lambda: self.count("loss") > count, "no loss arrives any more")
        self.client.unsubscribe("loss")
        self.wait_for_silence()
        self.end()

    def test_refused_texts_change_nothing(self):
        import grpc
        self.client.subscribe("loss()")
        for text in ("nonsense(weights)", "mean(nothing)", "mean(weights", "norm(weights, order=x)", "mean(weights); bad()"):
            with self.assertRaises(grpc.RpcError, msg=text) as caught:
                self.client.subscribe(text)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT, text)
            self.assertTrue(caught.exception.details(), text)
        self.assertEqual(len(self.client.subscribers()), 1)
        self.end()


if __name__ == "__main__":
    harness.main()
