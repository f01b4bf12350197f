"""What watching costs a trainer: the time of a step with the probe over that of the same step without it.

Two processes that do the same differ by a percent or two for as long as they live, by where their memory happens to lie. So
each is compared with itself: a trainer attaches its probe, trains, detaches it, trains, and so on; a ratio is the mean step
of one stretch with the probe over the mean of the bare stretches before and after it. The variants, each with a trainer and
a daemon of its own, take turns stretch by stretch, so that whatever else the machine does meets all of them; the trainers
share a core, the daemons another. The first steps of a stretch are not counted. A ratio that is far off the others of its
trainer was disturbed by something else and is left out.

Everything is started afresh several times. The figure is the mean over all ratios, beside it stands the standard error of the
means of these sets, and the variant `again`, whose trainer never attaches, shows what the method itself is worth.

    overhead.py [--sets N] [--cycles N] [--models fc,alexnet-mini] [--variants ...] [--check]

variant   probe attached, and
again     (no probe)
none      nothing subscribed
default   the default set, inside its budget of 1%
stats     statistics of weights, weight gradients, activations and layer gradients of all modules at every step, no budget
tensors   norm(order=3) of the same, which needs the whole tensors, no budget
"""

import argparse
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

BIN = pathlib.Path(os.environ["IKKUNA_BIN_DIR"])
KINDS = ("weights", "weight_gradients", "activations", "layer_gradients")
DAEMON_FLAGS = {
    "none": ["--no-default"],
    "default": [],
    "stats": ["--no-default", "--budget", "off", "--subscribe", ";".join(f"mean({k}); variance({k}); norm({k})" for k in KINDS)],
    "tensors": ["--no-default", "--budget", "off", "--subscribe", ";".join(f"norm({k}, order=3)" for k in KINDS)],
}
GOALS = {"none": 1.005, "default": 1.02, "stats": 1.08, "tensors": 1.15}
# The C library's default gives memory back and takes it again at every step; its page faults move the base by 20%.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(1 << 33), "MALLOC_TOP_PAD_": str(1 << 28)}
# Steps of a stretch that are not counted and those that are. With the default set the budget finds its periods first, and
# what is counted is longer than most of them.
BARE_STEPS = (5, 40)
PROBE_STEPS = {"default": (250, 200)}
PROBE_STEPS_ELSE = (20, 40)
DISTURBED = 0.15  # off the median of a trainer's ratios


class Trainer:
    def __init__(self, model, variant, folder, cores):
        self.variant = variant
        self.environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1", "IKKUNA_DIR": str(folder / variant),
                            "IKKUNA_WAIT_MS": "20000"}
        self.daemon = None
        if variant != "again":
            with open(folder / f"{variant}.log", "wb") as log:
                self.daemon = subprocess.Popen(
                    [BIN / "ikkuna-daemon", "--data-dir", folder / f"{variant}-data", *DAEMON_FLAGS[variant]],
                    env=self.environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, {cores[1]}))
        self.process = subprocess.Popen(
            [BIN.parent / "tests/overhead_trainer", model], env=self.environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {cores[0]}))

    def tell(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def stretch(self, watched):
        """Trains with the probe or without; the counted steps' mean wall time and mean processor time, in ns."""
        not_counted, counted = PROBE_STEPS.get(self.variant, PROBE_STEPS_ELSE) if watched else BARE_STEPS
        if self.daemon:
            self.tell("attach" if watched else "detach")
        self.tell(not_counted + counted)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"overhead: the trainer of '{self.variant}' ended with {self.process.wait()}")
        return [statistics.fmean([int(ns) for ns in part.split()][not_counted:]) for part in answer.split("|")]

    def status(self):
        """One line of what the daemon says of this trainer."""
        if not self.daemon:
            return ""
        answer = subprocess.run([BIN / "ikkuna", "status"], env=self.environment, capture_output=True, text=True)
        wanted = ("steps", "cost", "drop", "record", "budget", "statistics", "tensors")
        return "; ".join(line.strip() for line in answer.stdout.splitlines() if any(w in line for w in wanted))

    def end(self):
        self.process.stdin.close()
        self.process.wait()
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait()


def measure_set(model, arguments, cores, title):
    """({variant: [(wall ratio, processor time ratio), ...]}, mean bare step in ns), by processes that live for this set."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ikkuna-overhead-"))
    trainers = []
    try:
        for variant in arguments.variants:
            trainers.append(Trainer(model, variant, folder, cores))
        for trainer in trainers:
            trainer.stretch(False)
        bare = {trainer.variant: [trainer.stretch(False)] for trainer in trainers}
        watched = {trainer.variant: [] for trainer in trainers}
        for number in range(arguments.cycles):
            # Each cycle begins with another one: what follows the longest stretch is not always the same.
            first = number % len(trainers)
            for trainer in trainers[first:] + trainers[:first]:
                watched[trainer.variant].append(trainer.stretch(True))
                if arguments.verbose and number + 1 == arguments.cycles:
                    print(f"  {trainer.variant}: {trainer.status()}")
                bare[trainer.variant].append(trainer.stretch(False))
            print(f"\r{title}, cycle {number + 1} of {arguments.cycles} ", end="", file=sys.stderr, flush=True)
        ratios = {variant: [[stretch[i] / ((bare[variant][n][i] + bare[variant][n + 1][i]) / 2) for i in (0, 1)]
                            for n, stretch in enumerate(stretches)]
                  for variant, stretches in watched.items()}
        return ratios, statistics.fmean(wall for stretches in bare.values() for wall, _ in stretches)
    finally:
        for trainer in trainers:
            trainer.end()
        shutil.rmtree(folder, ignore_errors=True)


def measure(model, arguments, cores):
    sets = [measure_set(model, arguments, cores, f"{model}: set {number + 1} of {arguments.sets}")
            for number in range(arguments.sets)]
    print(file=sys.stderr)
    bare_ms = statistics.fmean(bare for _, bare in sets) / 1e6
    print(f"{model}: batch 128, bare step {bare_ms:.2f} ms, {arguments.sets} sets of {arguments.cycles} cycles")
    print(f"  {'variant':<10}{'of the bare step':>18}{'+-':>9}{'processor time':>16}{'at most':>9}{'left out':>10}")
    figures = {}
    for variant in arguments.variants:
        taken = [ratio for ratios, _ in sets for ratio in ratios[variant]]
        kept = undisturbed(taken)
        wall, cpu = ([ratio[i] for ratio in kept] for i in (0, 1))
        means = [statistics.fmean(ratio[0] for ratio in ratios[variant] if ratio in kept) for ratios, _ in sets]
        error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else float("nan")
        goal = GOALS.get(variant, "")
        print(f"  {variant:<10}{statistics.fmean(wall):>18.4f}{error:>9.4f}{statistics.fmean(cpu):>16.4f}{goal:>9}"
              f"{len(taken) - len(kept):>7} of {len(taken)}")
        if variant != "again":
            figures[variant] = statistics.fmean(wall)
    return figures


def undisturbed(ratios):
    usual = statistics.median(wall for wall, _ in ratios)
    return [ratio for ratio in ratios if abs(ratio[0] - usual) < DISTURBED]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=3, help="times that all processes are started afresh")
    parser.add_argument("--cycles", type=int, default=8, help="stretches with the probe, and as many without, of each trainer in a set")
    parser.add_argument("--models", default="fc,alexnet-mini")
    parser.add_argument("--variants", default="again,none,default,stats,tensors")
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is above its goal")
    parser.add_argument("--verbose", action="store_true", help="also what the daemons say of the trainers")
    arguments = parser.parse_args()
    arguments.variants = arguments.variants.split(",")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("overhead: only one core: trainer and daemon share it", file=sys.stderr)
    cores = (cores[0], cores[-1])
    os.sched_setaffinity(0, {cores[1]})
    figures, missed = {}, []
    for model in arguments.models.split(","):
        for variant, ratio in measure(model, arguments, cores).items():
            figures[f"{model}_{variant}"] = ratio
            if ratio > GOALS[variant]:
                missed.append(f"{model}_{variant}")
    print(" ".join(f"{key}={ratio:.4f}" for key, ratio in figures.items()))
    if arguments.check and missed:
        raise SystemExit(f"above the goal: {', '.join(missed)}")


if __name__ == "__main__":
    main()
