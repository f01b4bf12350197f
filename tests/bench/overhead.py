"""What watching costs a trainer: the time of a step with the probe over that of the same step without it.

Each variant is a trainer of its own with a daemon of its own, all in one run. They take turns on one core, ten steps at a
time, so that whatever else the machine does meets all of them; the daemons share another core. A turn's first steps are
not counted. A round in which a turn took far longer than that trainer's usual one was disturbed by something else and is
left out for all. The figure is `mean step of the variant / mean step of the bare loop` over the rounds that are left, and
beside it its standard error.

    overhead.py [--rounds N] [--steps N] [--models fc,alexnet-mini] [--variants ...] [--check]

variant   probe attached, and
bare      (no probe)
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
WARM_UP_STEPS = 3  # of each turn, not counted
DISTURBED = 1.3  # times the usual turn; what a due step costs is far less
SETTLING_STEPS = 600  # once, before the first round: budgets judge, pools fill


class Trainer:
    def __init__(self, model, variant, folder, cores):
        self.variant = variant
        self.environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1", "IKKUNA_DIR": str(folder / variant),
                            "IKKUNA_WAIT_MS": "20000"}
        self.daemon = None
        if variant != "bare":
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


def measure(model, arguments, cores):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ikkuna-overhead-"))
    trainers = []
    try:
        trainers = [Trainer(model, variant, folder, cores) for variant in ["bare", *arguments.variants]]
        for trainer in trainers:
            trainer.turn(SETTLING_STEPS)
        rounds = []
        for number in range(arguments.rounds):
            # Each round begins with another one: what follows the bare loop is not always the same.
            first = number % len(trainers)
            rounds.append({t.variant: [statistics.fmean(part) for part in t.turn(arguments.steps)]
                           for t in trainers[first:] + trainers[:first]})
            print(f"\r{model}: round {number + 1} of {arguments.rounds}", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        kept = undisturbed(rounds)
        bare, bare_cpu = (statistics.fmean(r["bare"][i] for r in kept) for i in (0, 1))
        print(f"{model}: batch 128, bare step {bare / 1e6:.2f} ms, turns of {arguments.steps} steps, {len(rounds)} rounds, "
              f"{len(rounds) - len(kept)} of them disturbed")
        print(f"  {'variant':<10}{'of the bare step':>18}{'+-':>9}{'processor time':>16}{'at most':>9}")
        figures = {}
        for variant in arguments.variants:
            figures[variant] = statistics.fmean(r[variant][0] for r in kept) / bare
            error = statistics.stdev(r[variant][0] / r["bare"][0] for r in kept) / len(kept) ** 0.5
            cpu = statistics.fmean(r[variant][1] for r in kept) / bare_cpu
            print(f"  {variant:<10}{figures[variant]:>18.4f}{error:>9.4f}{cpu:>16.4f}{GOALS[variant]:>9}")
        if arguments.verbose:
            for trainer in trainers:
                print(f"  {trainer.variant}: {trainer.status()}")
        return figures
    finally:
        for trainer in trainers:
            trainer.end()
        shutil.rmtree(folder, ignore_errors=True)


def undisturbed(rounds):
    usual = {variant: statistics.median(r[variant][0] for r in rounds) for variant in rounds[0]}
    return [r for r in rounds if all(r[variant][0] < DISTURBED * usual[variant] for variant in r)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10, help="counted steps of a turn")
    parser.add_argument("--models", default="fc,alexnet-mini")
    parser.add_argument("--variants", default="none,default,stats,tensors")
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
