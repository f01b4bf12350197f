"""What watching costs a step in instructions, counted by valgrind's callgrind: the same on a busy machine as on an idle one.

    instructions.py [--model tiny] [--steps N] [--check]

A trainer runs N steps and, in another run, twice as many; what the second has more of is N steps, without what a start
costs. All threads of the process count. Watched less bare is the probe's part:

asleep   attached to a daemon, nothing subscribed
loss     the loss alone, at every step: operators are heard for it, no layer is looked at
"""

import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

BIN = pathlib.Path(os.environ["IKKUNA_BIN_DIR"])
TRAINER = BIN.parent / "tests/overhead_trainer"
VARIANTS = {"asleep": [], "loss": ["--subscribe", "loss"]}
GOALS = {"asleep": 15_000}


def start(model, steps, attach, folder):
    """The process and the file of what it says, which ends with the count."""
    environment = dict(os.environ, IKKUNA_DIR=str(folder / "sockets"), OMP_NUM_THREADS="1")
    log = (folder / f"{attach}-{steps}.log").open("w+")
    process = subprocess.Popen(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind-{attach}-{steps}", TRAINER, model],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, text=True)
    process.stdin.write(("attach\n" if attach else "") + f"{steps}\n")
    process.stdin.close()
    return process, log


def per_step(model, steps, attach, folder):
    runs = [start(model, n, attach, folder) for n in (steps, 2 * steps)]
    counts = []
    for process, log in runs:
        process.wait()
        log.seek(0)
        text = log.read()
        found = re.search(r"Collected : (\d+)", text)
        if process.returncode != 0 or not found:
            sys.exit(f"instructions.py: the trainer ended with {process.returncode}:\n{text}")
        counts.append(int(found.group(1)))
    return (counts[1] - counts[0]) / steps


def watched(model, steps, flags, folder):
    daemon = subprocess.Popen(
        [BIN / "ikkuna-daemon", "--budget", "off", "--no-default", "--data-dir", folder / "data", *flags],
        env=dict(os.environ, IKKUNA_DIR=str(folder / "sockets")), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return per_step(model, steps, True, folder)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        shutil.rmtree(folder / "data", ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--check", action="store_true", help="exit 1 when a figure misses its goal")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("instructions.py: there is no valgrind; 'apt-get install valgrind' brings it")
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        (folder / "sockets").mkdir(mode=0o700)
        bare = per_step(options.model, options.steps, False, folder)
        print(f"{'bare':8} {bare:12,.0f} instructions a step of {options.model}")
        more = {}
        for name, flags in VARIANTS.items():
            more[name] = watched(options.model, options.steps, flags, folder) - bare
            goal = f"   (goal {GOALS[name]:,})" if name in GOALS else ""
            print(f"{name:8} {more[name]:+12,.0f} {more[name] / bare:+8.2%}{goal}")
    print(" ".join(f"{name}={value:.0f}" for name, value in more.items()))
    missed = [name for name, goal in GOALS.items() if more[name] > goal]
    if options.check and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
