"""Loops that people reported of other tools, and others of each kind: what a client reads is what is true, or it is said.

cases_trainer (tests/e2e/cases_trainer.cc) runs each case bare and watched, and states what a client is to read of it. What
is compared: every value of every series, the flags of every sample, the notes, what is missing by reason, the accounting,
and that the losses and the weights of both lives are the same to the bit.
"""

import collections
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from harness import TEST_BIN, Site, main, pb, wait_until  # noqa: E402

STEPS = 7
TOLERANCE = 1e-6
KINDS = ["weights", "biases", "weight_gradients", "bias_gradients", "weight_updates", "bias_updates", "activations",
         "layer_gradients", "exp_avg"]
SUBSCRIBERS = [f"norm({kind})" for kind in KINDS] + [
    "loss; loss(tag=test); train_accuracy; test_accuracy; learning_rate"]
# Of these a case states some alone; of all other topics what it does not state is not there.
STATED_IN_PART = {"activations_norm2", "layer_gradients_norm2"}
INFERRED, SKIPPED = pb.SAMPLE_FLAG_STEP_INFERRED, pb.SAMPLE_FLAG_STEP_SKIPPED

UNKNOWN_ACCURACY = "the accuracy of model is not known: the targets of its .* loss are no class indices"


def terms(*names):
    return f"the loss of model is not known: .* by name: {', '.join('loss_' + name for name in names)}; call probe.Loss"


Case = collections.namedtuple("Case", "notes flags missing", defaults=((), lambda step: 0, {}))


def replaced(step, names):
    return [f"parameters of model were replaced or removed before step {step}: {names}",
            f"parameters of model came after Attach\\(\\), before step {step}: {names}"]


HEAD = "head.weight, head.bias"
DESTROYED = "an attached optimizer was destroyed: its learning rates and moments end; attach the one that goes on"
SPARSE = "weight_gradients of 0 of model are not captured: sparse or opaque layout"
INFERRED_NOTE = "steps of model end as inferred: their write of the parameters was not seen.*probe.Step\\(\\)"
LBFGS = "LBFGS evaluates several times in one step.*probe.Step\\(\\)"
# Of a pass: three activations (fc1, its ReLU, head), and, where backward reaches its loss, what came out and what it was
# compared with.
FORWARD = 3
PASS = FORWARD + 2
LAYERS = 3  # layer gradients of a walk
OTHER = PASS + LAYERS  # an evaluation that is not the step's first
# The last step of a loop whose write is not seen does not end: its frame, and what its pass had brought.
LAST_UNSEEN = {"discarded": 1, "no_step": PASS + LAYERS}

CASES = {
    # What has no gradient, or gives none, is no loss.
    "metricloss": Case(), "metriclate": Case(),
    # A loss of several terms.
    "composite": Case([terms("cross_entropy", "mse")]), "distilled": Case([terms("cross_entropy", "kl_div")]),
    "penalty": Case([terms("mse"), UNKNOWN_ACCURACY]),
    "uncertainty": Case([terms("mse"), UNKNOWN_ACCURACY, "activations of Net of model are not captured"]),
    "stacked": Case([terms("mse", "smooth_l1", "mse_2"), UNKNOWN_ACCURACY]),
    "reduced": Case(), "smoothed": Case(), "triplet": Case(),
    "vae": Case([terms("binary_cross_entropy"), UNKNOWN_ACCURACY]),
    "vaefix": Case([UNKNOWN_ACCURACY]), "vaefixlate": Case([UNKNOWN_ACCURACY]), "vaemicro": Case([UNKNOWN_ACCURACY]),
    # Loss() in training, and evaluation beside it.
    "evaluated": Case(["evaluation losses of model by cross_entropy stand beside what training gives by probe.Loss\\(\\)"]),
    "evaluatedgiven": Case(), "evaluatedterms": Case([terms("cross_entropy")]),
    # Labels that do not count.
    "ignore0": Case(), "ignore": Case(), "ignoresequences": Case(), "softtargets": Case([UNKNOWN_ACCURACY]),
    # Modules that are replaced.
    "replace": Case([*replaced(3, HEAD), DESTROYED, UNKNOWN_ACCURACY]),
    "replacetwice": Case([*replaced(2, HEAD), *replaced(4, HEAD), UNKNOWN_ACCURACY]),
    "replacestack": Case([*replaced(3, "head.0.weight, head.0.bias"), DESTROYED, UNKNOWN_ACCURACY]),
    # Optimizers that go, come, and get more to do.
    "reopt": Case([DESTROYED, UNKNOWN_ACCURACY]), "reoptclass": Case([UNKNOWN_ACCURACY]),
    "group": Case([UNKNOWN_ACCURACY]), "groupscheduled": Case([UNKNOWN_ACCURACY]),
    # Sparse gradients.
    "sparse": Case([SPARSE, UNKNOWN_ACCURACY]), "sparsebag": Case([SPARSE, UNKNOWN_ACCURACY]),
    # Steps whose write is not seen.
    "rawptr": Case([INFERRED_NOTE, UNKNOWN_ACCURACY], lambda step: INFERRED, LAST_UNSEEN),
    "rawaccumulated": Case([INFERRED_NOTE, UNKNOWN_ACCURACY], lambda step: INFERRED,
                           {"discarded": 1, "no_step": 2 * (PASS + LAYERS)}),
    "autogradgrad": Case([INFERRED_NOTE, UNKNOWN_ACCURACY], lambda step: INFERRED, LAST_UNSEEN),
    "newdata": Case([UNKNOWN_ACCURACY]), "gradassigned": Case([UNKNOWN_ACCURACY]),
    # Several evaluations a step.
    "lbfgs": Case([LBFGS, UNKNOWN_ACCURACY]), "lbfgsmanual": Case([LBFGS, UNKNOWN_ACCURACY], missing={"no_step": STEPS * 3 * OTHER}),
    "sharpness": Case([UNKNOWN_ACCURACY], missing={"no_step": STEPS * OTHER}),
    # Graphs that are walked more than once: of the others the layer gradients are left out.
    "gp": Case([terms("mse"), UNKNOWN_ACCURACY], missing={"no_step": STEPS * LAYERS}),
    "doublebackprop": Case([terms("mse"), UNKNOWN_ACCURACY], missing={"no_step": STEPS * LAYERS}),
    "twoback": Case([UNKNOWN_ACCURACY], missing={"no_step": STEPS * LAYERS}),
    "threeback": Case([UNKNOWN_ACCURACY], missing={"no_step": STEPS * 2 * LAYERS}),
    "critic": Case(["the loss of model is not known: no loss function of LibTorch ran on its output"],
                   missing={"no_step": STEPS * LAYERS}),
    # Batches that are skipped; the last one belongs to a step that never comes.
    "nanskip": Case([UNKNOWN_ACCURACY], missing={"discarded": 1, "no_step": 3 * FORWARD}),
    "nanskipends": Case([UNKNOWN_ACCURACY], missing={"discarded": 1, "no_step": 6 * FORWARD}),
    "nanskipkept": Case([UNKNOWN_ACCURACY], missing={"no_step": STEPS // 2 * FORWARD}),
    "skippedlate": Case([UNKNOWN_ACCURACY], lambda step: SKIPPED if step % 5 in (3, 4) else 0, LAST_UNSEEN),
    # Modules whose output is no plain tensor.
    "packed": Case(), "packedproj": Case(), "packedgru": Case(),
}


class Lives:
    """What cases_trainer said of one case."""

    def __init__(self):
        self.lines = {"bare": [], "watched": []}  # that both agree on
        self.true = {}  # {(tag, module, param, topic): {step: value}}


def parse(log):
    lives, current, kind = {}, None, None
    for line in log.splitlines():
        words = line.split()
        if line.startswith("CASE "):
            current, kind = lives.setdefault(words[1], Lives()), words[2]
        elif line.startswith("L "):
            current.lines[kind].append(line)
        elif line.startswith("T "):
            key = tuple("" if word == "-" else word for word in words[2:6])
            values = current.true.setdefault(key, {})
            assert int(words[1]) not in values, line
            values[int(words[1])] = float(words[6])
    return lives


def near(got, want):
    return got == want or abs(got - want) <= TOLERANCE * max(abs(want), 1e-30) or (got != got and want != want)


class CasesTest(Site):
    def setUp(self):
        super().setUp()
        self.start_daemon("--no-default", "--budget", "off", *(word for text in SUBSCRIBERS for word in ("--subscribe", text)))

    def test_what_a_client_reads_is_true_or_it_is_said(self):
        trainer = self.start([TEST_BIN / "cases_trainer", str(STEPS), *CASES], IKKUNA_WAIT_MS="120000", IKKUNA_ARENA_MB="64")
        trainer.expect_success()
        producers = {}

        def all_at_rest():
            producers.update({p.run_name: p for p in self.client.status().producers})
            return len(producers) == len(CASES) and all(
                p.state == pb.PRODUCER_STATE_FINISHED and p.accounting.in_flight == 0 for p in producers.values())

        wait_until(all_at_rest, lambda: f"not all came to rest: {producers}")
        lives = parse(trainer.log())
        for name, case in CASES.items():
            with self.subTest(case=name):
                self.assertEqual(lives[name].lines["watched"], lives[name].lines["bare"])
                producer = producers[name]
                self.assert_accounts(producer)
                self.assertEqual(producer.accounting.dropped, 0, str(producer.accounting))
                errors = self.errors(name, case, lives[name].true) + self.wrong_notes(case, producer.notes)
                missing = {count.reason: count.count for count in producer.missing}
                if missing != case.missing:
                    errors.append(f"missing {missing} instead of {case.missing}")
                self.assertEqual(len(errors), 0, "\n" + "\n".join(errors[:40]))

    def errors(self, name, case, true):
        served, errors = {}, []
        for part in self.client.columns(run=name):
            key = part.series.key
            samples = served.setdefault((key.tag, key.module, key.param, key.topic), {})
            for step, number, flags in zip(part.steps, part.numbers, part.flags):
                if step in samples:
                    errors.append(f"{key.topic} of {key.module} twice at step {step}")
                samples[step] = (number, flags)
                if flags != case.flags(step):
                    errors.append(f"{key.topic} of {key.module}.{key.param} step {step} has flags {flags}")
        for series, wanted in true.items():
            got = served.get(series, {})
            if got.keys() != wanted.keys():
                errors.append(f"{series}: steps {sorted(got)} instead of {sorted(wanted)}")
            errors += [f"{series} step {step}: {got[step][0]} instead of {wanted[step]}"
                       for step in sorted(got.keys() & wanted.keys()) if not near(got[step][0], wanted[step])]
        errors += [f"nobody states {series}: {samples}" for series, samples in served.items()
                   if series not in true and series[3] not in STATED_IN_PART]
        return errors

    def wrong_notes(self, case, notes):
        errors = []
        for pattern in case.notes:
            found = [note for note in notes if re.search(pattern, note)]
            if len(found) != 1:
                errors.append(f"{len(found)} notes say '{pattern}'")
        errors += [f"unexpected note: {note}" for note in notes if not any(re.search(p, note) for p in case.notes)]
        return errors


if __name__ == "__main__":
    main()
