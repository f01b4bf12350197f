"""TensorBoard's own reader, which checks every CRC, finds in the event files the numbers that the store serves."""

import math
import pathlib

import harness
import numpy as np


class TensorBoardTest(harness.Site):
    def tags_of(self, served):
        """{(folder of the tag, name in TensorBoard): {step: value}} of what the store serves."""
        result = {}
        for (tag, root, module, param, topic), samples in served.items():
            self.assertEqual(root, "model")
            name = topic
            if module:
                name += "/" + module + ("." + param if param else "")
            elif param:
                name += "/" + param
            result[tag, name] = samples
        return result

    def read_back(self, logdir):
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator

        result = {}
        for folder in sorted({path.parent for path in pathlib.Path(logdir).rglob("*tfevents*")}):
            accumulator = EventAccumulator(str(folder), size_guidance={SCALARS: 0, TENSORS: 0})
            accumulator.Reload()
            tags = accumulator.Tags()
            for name in tags["scalars"]:
                events = accumulator.Scalars(name)
                steps = [event.step for event in events]
                self.assertEqual(steps, sorted(steps), f"{name}: not in the order of the steps")
                self.assertEqual(len(steps), len(set(steps)), f"{name}: a step twice")
                result[folder.name, name] = {event.step: event.value for event in events}
            for name in tags["tensors"]:  # a later TensorBoard reads simple_value as tensors of one number
                values = {event.step: event for event in accumulator.Tensors(name)}
                if all(event.tensor_proto.dtype == 1 for event in values.values()):  # DT_FLOAT
                    result.setdefault((folder.name, name),
                                      {step: event.tensor_proto.float_val[0] for step, event in values.items()})
        return result

    def test_same_numbers(self):
        self.start_daemon("--budget", "off", "--subscribe", "mean(activations, tag=test)", "--subscribe", "norm(weight_updates, order=3)")
        self.train("--model", "alexnet-mini", "--batch-size", "32", "--max-steps", "120", "--test-images", "500",
                   "--budget", "off", IKKUNA_WAIT_MS="120000")
        self.settled_producer()
        served = self.tags_of(self.client.everything())
        logdir = self.client.status().tensorboard_directory
        self.assertTrue(logdir)
        self.stop_daemon()
        found = self.read_back(logdir)
        self.assertGreater(len(served), 50)
        self.assertEqual(sorted(served.keys() - found.keys()), [])
        self.assertEqual(sorted(found.keys() - served.keys()), [])
        for name, samples in served.items():
            self.assertEqual(found[name].keys(), samples.keys(), name)
            for step, value in samples.items():
                wanted = float(np.float32(value))
                got = found[name][step]
                self.assertTrue(got == wanted or (math.isnan(got) and math.isnan(wanted)), f"{name} {step}: {got} {value}")


if __name__ == "__main__":
    harness.main()
