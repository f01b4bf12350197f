"""What watching costs a trainer: the time of a step with the probe over that of the same step without it.

On a shared machine a step takes five percent more or less from one second to the next, and two processes that do the same
differ for as long as they live, by where their memory happens to lie. Against the former two trainers, twins, take turns of
a few steps on one core, one with its probe attached, the other without: a ratio is the mean step of a watched turn over the
mean of the bare turns before and after it. Against the latter they change parts: the figure of a pair is the geometric mean
of the two halves, in which what is peculiar to each twin cancels. The daemon has another core.

The first step of a turn finds the other's data in the caches and is not counted, nor are the first steps after attaching. A
turn has seven steps, which has no factor in common with any period of the default set. A turn that is far off the others of
its twin in that half was disturbed by something else and is left out, watched or bare: one rule for both sides, since a ratio
that is too high would be left out more readily than a turn that makes two ratios too low.

Everything is started afresh several times. The figure is the mean over these pairs, beside it stands its standard error, and
the variant `again`, of which neither twin ever attaches, shows what the method itself is worth.

With --threads N the trainers have N threads and as many cores, and the daemon, which may run on any core, is beside them as
in the quickstart (two threads, both cores): what it takes from busy cores is part of the ratio then.

    overhead.py [--sets N] [--turns N] [--models fc,alexnet-mini] [--variants ...] [--threads N] [--check]

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
TURN = 7  # steps
# Steps before a half is counted: all that is needed is there, and with the default set the budget has found its periods.
SETTLING = {"default": 250}
SETTLING_ELSE = 20
DISTURBED = 0.15  # off the median of the turns of one twin in one half


class Trainer:
    """One of the twins; it attaches to the daemon whose directory the environment names."""

    def __init__(self, model, environment, threads, cores):
        self.process = subprocess.Popen(
            [BIN.parent / "tests/overhead_trainer", model, str(threads)], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores))

    def tell(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def steps(self, count):
        """Trains; the steps' wall times and processor times, in ns."""
        self.tell(count)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"overhead: a trainer ended with {self.process.wait()}")
        return [[int(ns) for ns in part.split()] for part in answer.split("|")]

    def turn(self):
        """The mean wall time and the mean processor time of the counted steps."""
        return [statistics.fmean(times[1:]) for times in self.steps(TURN)]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Places:
    """Who runs where: one trainer's thread has the first core, the daemon the last; several have theirs, it has all."""

    def __init__(self, threads):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            print("overhead: only one core: trainer and daemon share it", file=sys.stderr)
        if len(cores) < threads:
            raise SystemExit(f"overhead: {threads} threads need as many cores, there are {len(cores)}")
        self.threads = threads
        self.trainer = set(cores[:threads])
        self.daemon = {cores[-1]} if threads == 1 else set(cores)


class Pair:
    """Two trainers that live for one set, and the daemon that watches now the one, now the other."""

    def __init__(self, model, variant, places):
        self.variant = variant
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ikkuna-overhead-"))
        self.environment = {**os.environ, **MALLOC, "OMP_NUM_THREADS": str(places.threads),
                            "IKKUNA_DIR": str(self.folder / "meet"), "IKKUNA_WAIT_MS": "20000"}
        self.daemon = None
        if variant != "again":
            with open(self.folder / "log", "wb") as log:
                self.daemon = subprocess.Popen(
                    [BIN / "ikkuna-daemon", "--data-dir", self.folder / "data", *DAEMON_FLAGS[variant]], env=self.environment,
                    stdout=log, stderr=subprocess.STDOUT, preexec_fn=lambda: os.sched_setaffinity(0, places.daemon))
        self.twins = [Trainer(model, self.environment, places.threads, places.trainer) for _ in range(2)]

    def half(self, watched, bare, turns):
        """The turns of both twins, each (wall, processor time) of a step in ns; the bare one has the first and the last."""
        if self.daemon:
            watched.tell("attach")
        watched.steps(SETTLING.get(self.variant, SETTLING_ELSE))
        watched_turns, bare_turns = [], [bare.turn()]
        for _ in range(turns):
            watched_turns.append(watched.turn())
            bare_turns.append(bare.turn())
        return watched_turns, bare_turns

    def status(self):
        """One line of what the daemon says of the trainer that it watches."""
        if not self.daemon:
            return ""
        answer = subprocess.run([BIN / "ikkuna", "status"], env=self.environment, capture_output=True, text=True)
        wanted = ("steps", "cost", "drop", "record", "budget", "statistics", "tensors")
        return "; ".join(line.strip() for line in answer.stdout.splitlines() if any(w in line for w in wanted))

    def measure(self, turns, verbose):
        """(wall ratio, processor time ratio, mean bare step in ns, turns left out)."""
        for twin in self.twins:
            twin.steps(SETTLING_ELSE)
        kept, bare_ns, left_out = [], [], 0
        for watched, bare in (self.twins, self.twins[::-1]):
            watched_turns, bare_turns = self.half(watched, bare, turns)
            if verbose:
                print(f"  {self.variant}: {self.status()}")
            if self.daemon:
                watched.tell("detach")
            kept.append(ratios(watched_turns, bare_turns))
            left_out += len(watched_turns) - len(kept[-1])
            bare_ns.append(statistics.fmean(wall for wall, _ in bare_turns))
        wall, cpu = ((statistics.fmean(r[i] for r in kept[0]) * statistics.fmean(r[i] for r in kept[1])) ** 0.5 for i in (0, 1))
        return wall, cpu, statistics.fmean(bare_ns), left_out

    def end(self):
        for twin in self.twins:
            twin.end()
        if self.daemon:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def undisturbed(turns):
    usual = statistics.median(wall for wall, _ in turns)
    return [abs(wall / usual - 1) < DISTURBED for wall, _ in turns]


def ratios(watched, bare):
    """(wall, processor time) of each watched turn over the mean of the bare ones around it, where none was disturbed."""
    good_watched, good_bare = undisturbed(watched), undisturbed(bare)
    found = [[turn[i] / ((before[i] + after[i]) / 2) for i in (0, 1)]
             for k, (turn, before, after) in enumerate(zip(watched, bare, bare[1:]))
             if good_watched[k] and good_bare[k] and good_bare[k + 1]]
    if not found:
        raise SystemExit("overhead: every turn was disturbed; measure on a machine that does nothing else")
    return found


def measure(model, arguments, places):
    found = {variant: [] for variant in arguments.variants}
    for number in range(arguments.sets):
        for variant in arguments.variants:
            print(f"\r{model}: set {number + 1} of {arguments.sets}, {variant:<10}", end="", file=sys.stderr, flush=True)
            pair = Pair(model, variant, places)
            try:
                found[variant].append(pair.measure(arguments.turns, arguments.verbose))
            finally:
                pair.end()
    print(file=sys.stderr)
    bare_ms = statistics.fmean(bare for pairs in found.values() for _, _, bare, _ in pairs) / 1e6
    print(f"{model}: batch 128, {arguments.threads} thread(s), bare step {bare_ms:.2f} ms, {arguments.sets} pairs of "
          f"trainers a variant, 2 x {arguments.turns} turns")
    print(f"  {'variant':<10}{'of the bare step':>18}{'+-':>9}{'processor time':>16}{'at most':>9}{'left out':>13}")
    figures = {}
    for variant, pairs in found.items():
        wall, cpu = ([pair[i] for pair in pairs] for i in (0, 1))
        error = statistics.stdev(wall) / len(wall) ** 0.5 if len(wall) > 1 else float("nan")
        left_out = f"{sum(pair[3] for pair in pairs)} of {2 * arguments.turns * len(pairs)}"
        print(f"  {variant:<10}{statistics.fmean(wall):>18.4f}{error:>9.4f}{statistics.fmean(cpu):>16.4f}"
              f"{GOALS.get(variant, ''):>9}{left_out:>13}")
        if variant != "again":
            figures[variant] = statistics.fmean(wall)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=3, help="times that all processes are started afresh")
    parser.add_argument("--turns", type=int, default=60, help="turns of the watched twin in each half")
    parser.add_argument("--models", default="fc,alexnet-mini")
    parser.add_argument("--variants", default="again,none,default,stats,tensors")
    parser.add_argument("--threads", type=int, default=1, help="of a trainer, on as many cores")
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is above its goal")
    parser.add_argument("--verbose", action="store_true", help="also what the daemons say of the trainers that they watch")
    arguments = parser.parse_args()
    arguments.variants = arguments.variants.split(",")
    places = Places(arguments.threads)
    os.sched_setaffinity(0, places.daemon)
    figures, missed = {}, []
    for model in arguments.models.split(","):
        for variant, ratio in measure(model, arguments, places).items():
            figures[f"{model}_{variant}"] = ratio
            if ratio > GOALS[variant]:
                missed.append(f"{model}_{variant}")
    print(" ".join(f"{key}={ratio:.4f}" for key, ratio in figures.items()))
    if arguments.check and missed:
        raise SystemExit(f"above the goal: {', '.join(missed)}")


if __name__ == "__main__":
    main()
