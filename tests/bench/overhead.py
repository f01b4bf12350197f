"""What watching costs a trainer: the time of a step with the probe over that of the same step without it.

Each variant is a trainer of its own with a daemon of its own, all in one run. They take turns on one core, ten steps at a
time, so that whatever else the machine does meets all of them; the daemons share another core. A turn's first steps are
not counted. A round in which a turn took far longer than that trainer's usual one was disturbed by something else and is
left out for all.

Two processes that do the same differ by up to a percent, for as long as they live, by where their memory happens to lie. So
everything is started afresh several times: the figure is the mean over these sets of `mean step of the variant / mean step
of the bare loop`, beside it stands its standard error, and the variant `again`, a second bare loop, shows what is left.

    overhead.py [--sets N] [--rounds N] [--steps N] [--models fc,alexnet-mini] [--variants ...] [--check]

variant   probe attached, and
bare      (no probe)
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
BARE = ("bare", "again")
GOALS = {"none": 1.005, "default": 1.02, "stats": 1.08, "tensors": 1.15}
# The C library's default gives memory back and takes it again at every step; its page faults move the base by 20%.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(1 << 33), "MALLOC_TOP_PAD_": str(1 << 28)}
WARM_UP_STEPS = 3  # of each turn, not counted
DISTURBED = 1.3  # times the usual turn; what a due step costs is far less
SETTLING_STEPS = 200  # of each trainer, not counted: budgets judge, pools fill


class Trainer:
    def __init__(self, model, variant, folder, cores):
        self.variant = variant
        self.environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1", "IKKUNA_DIR": str(folder / variant),
                            "IKKUNA_WAIT_MS": "20000"}
        self.daemon = None
        if variant not in BARE:
            with open(folder / f"{variant}.log", "wb") as log:
                self.daemon = subprocess.Popen(
                    [BIN / "ikkuna-daemon", "--data-dir", folder / f"{variant}-data", *DAEMON_FLAGS[variant]],
                    env=self.environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, {cores[1]}))
        self.process = subprocess.Popen(
            [BIN.parent / "tests/overhead_trainer", model] + (["probe"] if self.daemon else []), env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {cores[0]}))

    def turn(self, steps):
        """Trains; the counted steps' wall times and processor times, in ns."""
        self.process.stdin.write(f"{steps + WARM_UP_STEPS}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"overhead: the trainer of '{self.variant}' ended with {self.process.wait()}")
        return [[int(ns) for ns in part.split()][WARM_UP_STEPS:] for part in answer.split("|")]

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
    """{variant: [mean wall time, mean processor time]} of a step in ns, by processes that live for this set."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ikkuna-overhead-"))
    trainers = []
    try:
        for variant in ["bare", *arguments.variants]:
            trainers.append(Trainer(model, variant, folder, cores))
        for trainer in trainers:
            trainer.turn(SETTLING_STEPS)
        rounds = []
        for number in range(arguments.rounds):
            # Each round begins with another one: what follows the bare loop is not always the same.
            first = number % len(trainers)
            rounds.append({t.variant: [statistics.fmean(part) for part in t.turn(arguments.steps)]
                           for t in trainers[first:] + trainers[:first]})
            print(f"\r{title}, round {number + 1} of {arguments.rounds} ", end="", file=sys.stderr, flush=True)
        if arguments.verbose:
            for trainer in trainers:
                print(f"  {trainer.variant}: {trainer.status()}")
        kept = undisturbed(rounds)
        return {variant: [statistics.fmean(r[variant][i] for r in kept) for i in (0, 1)] for variant in rounds[0]}
    finally:
        for trainer in trainers:
            trainer.end()
        shutil.rmtree(folder, ignore_errors=True)


def measure(model, arguments, cores):
    sets = [measure_set(model, arguments, cores, f"{model}: set {number + 1} of {arguments.sets}")
            for number in range(arguments.sets)]
    print(file=sys.stderr)
    bare_ms = statistics.fmean(s["bare"][0] for s in sets) / 1e6
    print(f"{model}: batch 128, bare step {bare_ms:.2f} ms, {arguments.sets} sets of {arguments.rounds} rounds, turns of "
          f"{arguments.steps} steps")
    print(f"  {'variant':<10}{'of the bare step':>18}{'+-':>9}{'processor time':>16}{'at most':>9}")
    figures = {}
    for variant in arguments.variants:
        wall, cpu = ([s[variant][i] / s["bare"][i] for s in sets] for i in (0, 1))
        error = statistics.stdev(wall) / len(wall) ** 0.5 if len(wall) > 1 else float("nan")
        goal = GOALS.get(variant, "")
        print(f"  {variant:<10}{statistics.fmean(wall):>18.4f}{error:>9.4f}{statistics.fmean(cpu):>16.4f}{goal:>9}")
        if variant not in BARE:
            figures[variant] = statistics.fmean(wall)
    return figures


def undisturbed(rounds):
    usual = {variant: statistics.median(r[variant][0] for r in rounds) for variant in rounds[0]}
    return [r for r in rounds if all(r[variant][0] < DISTURBED * usual[variant] for variant in r)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=6, help="times that all processes are started afresh")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each trainer in a set")
    parser.add_argument("--steps", type=int, default=10, help="counted steps of a turn")
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
