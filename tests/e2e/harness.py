"""What the end-to-end tests share: a folder of their own, processes with watchdogs, a gRPC client, the accounting.

The programs are found by IKKUNA_BIN_DIR (build/release/bin otherwise). Every process is started in a process group of its
own, with IKKUNA_DIR in the test's folder; by that folder in its environment a process that outlives its test is found.
"""

import atexit
import collections
import ctypes
import importlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(os.environ.get("IKKUNA_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BIN = pathlib.Path(os.environ.get("IKKUNA_BIN_DIR", SOURCE / "build/release/bin"))
TEST_BIN = pathlib.Path(os.environ.get("IKKUNA_TEST_BIN_DIR", SOURCE / "build/release/tests"))
FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
_libc = ctypes.CDLL(None)
WATCHDOG_S = 240  # for whatever may hang; no test asserts a time


def load_stubs():
    """The Python side of monitor.proto, generated once a process: the message module and the service module."""
    folder = tempfile.mkdtemp(prefix="ikkuna-stubs-")
    atexit.register(shutil.rmtree, folder, True)
    from grpc_tools import protoc

    proto = SOURCE / "proto"
    google = pathlib.Path(protoc.__file__).parent / "_proto"  # what `python -m grpc_tools.protoc` adds by itself
    code = protoc.main(["protoc", f"-I{proto}", f"-I{google}", f"--python_out={folder}", f"--grpc_python_out={folder}",
                        *map(str, sorted((proto / "ikkuna/v1").glob("*.proto")))])
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}")
    sys.path.insert(0, folder)
    return importlib.import_module("ikkuna.v1.monitor_pb2"), importlib.import_module("ikkuna.v1.monitor_pb2_grpc")


# Between fork and exec of what a test starts gRPC has nothing to do; its handlers there end the child now and then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
pb, pb_grpc = load_stubs()
import grpc  # noqa: E402  (after the stubs: generating them must not import it first)


def wait_until(condition, what, timeout_s=WATCHDOG_S):
    """Polls until `condition()` is true and returns its value; fails with `what` when the watchdog strikes."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain: {what() if callable(what) else what}")
        time.sleep(0.02)


def _die_with_test():
    """In the child: a test that is killed itself takes along what it started."""
    PR_SET_PDEATHSIG = 1
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A program in a process group of its own; its output goes to a file, which every failure shows."""

    def __init__(self, command, environment, log):
        self.command = [str(word) for word in command]
        self.log_path = pathlib.Path(log)
        with open(self.log_path, "wb") as file:
            self.popen = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL, stdout=file,
                                          stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_test)
        self.pid = self.popen.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def running(self):
        return self.popen.poll() is None

    def signal(self, number):
        os.killpg(self.pid, number)

    def wait(self, timeout_s=WATCHDOG_S):
        """The exit status; a negative one is the signal that ended it."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} still runs after {timeout_s} s:\n{self.log()[-4000:]}") from None

    def expect_success(self, timeout_s=WATCHDOG_S):
        code = self.wait(timeout_s)
        if code != 0:
            raise AssertionError(f"{self.command} ended with {code}:\n{self.log()[-4000:]}")

    def end(self):
        """Whatever state it is in, it is gone afterwards."""
        try:
            os.killpg(self.pid, signal.SIGCONT)
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()


Sample = collections.namedtuple("Sample", "step value unix_ns samples_seen flags")


class Client:
    """ikkuna.v1.Monitor over the Unix socket of the test's daemon."""

    def __init__(self, directory):
        self.channel = grpc.insecure_channel(f"unix:{directory}/grpc.sock")  # answers fit the limits that a client has
        self.stub = pb_grpc.MonitorStub(self.channel)

    def close(self):
        self.channel.close()

    def status(self):
        return self.stub.GetStatus(pb.GetStatusRequest(), timeout=WATCHDOG_S)

    def producer(self):
        """The only producer, or None when there is none yet."""
        producers = self.status().producers
        assert len(producers) <= 1, producers
        return producers[0] if producers else None

    def series(self, **filters):
        """Every series that passes the filter, as SeriesSummary."""
        found, page = [], ""
        while True:
            answer = self.stub.ListSeries(pb.ListSeriesRequest(filter=pb.SeriesFilter(**filters), page=page),
                                          timeout=WATCHDOG_S)
            found += answer.series
            if not answer.next_page:
                return found
            page = answer.next_page

    def runs(self, **request):
        """Every recorded run, the one that started last first."""
        found, page = [], ""
        while True:
            answer = self.stub.ListRuns(pb.ListRunsRequest(page=page, **request), timeout=WATCHDOG_S)
            found += answer.runs
            if not answer.next_page:
                return found
            page = answer.next_page

    def columns(self, step_min=None, step_max=None, max_points=0, merge_attempts=False, **filters):
        """The parts of all series that pass the filter, as Columns."""
        request = pb.ReadSamplesRequest(filter=pb.SeriesFilter(**filters), step_min=step_min, step_max=step_max,
                                        max_points=max_points, merge_attempts=merge_attempts)
        for answer in self.stub.ReadSamples(request, timeout=WATCHDOG_S):
            yield from answer.columns

    def samples(self, series):
        """The values of one series of numbers, given as SeriesSummary."""
        key = series.series.key
        found = []
        for part in self.columns(run=key.run.run_id, attempt=key.run.attempt, rank=key.run.rank, tag=key.tag, root=key.root,
                                 module=key.module, param=key.param, topic=key.topic):
            if part.series.id == series.series.id:
                found += [Sample(*values) for values in zip(part.steps, part.numbers, part.unix_ns, part.samples_seen, part.flags)]
        return found

    def everything(self, **filters):
        """{(tag, root, module, param, topic): {step: value}} of all series of numbers that pass the filter."""
        result, owners = {}, {}
        for part in self.columns(**filters):
            if part.series.type != pb.VALUE_TYPE_NUMBER:
                continue
            key = part.series.key
            name = (key.tag, key.root, key.module, key.param, key.topic)
            owner = (key.run.run_id, key.run.attempt, key.run.rank, part.series.id)
            assert owners.setdefault(name, owner) == owner, f"two series are called {name}"
            result.setdefault(name, {}).update(zip(part.steps, part.numbers))
        return result

    def events(self, **request):
        found, after = [], 0
        while True:
            answer = self.stub.ListEvents(pb.ListEventsRequest(after_id=after, **request), timeout=WATCHDOG_S)
            found += answer.events
            if not answer.more:
                return found
            after = answer.events[-1].id

    def subscribe(self, text):
        return self.stub.AddSubscribers(pb.AddSubscribersRequest(text=text), timeout=WATCHDOG_S).subscribers

    def unsubscribe(self, what):
        """An id, or a topic."""
        which = {"id": int(what)} if str(what).isdigit() else {"topic": what}
        return self.stub.RemoveSubscribers(pb.RemoveSubscribersRequest(**which), timeout=WATCHDOG_S).subscribers

    def subscribers(self):
        return self.stub.ListSubscribers(pb.ListSubscribersRequest(), timeout=WATCHDOG_S).subscribers


class Site(unittest.TestCase):
    """A test with a folder, a daemon and trainers of its own."""

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="ikkuna-e2e-"))
        self.addCleanup(shutil.rmtree, self.root, True)
        self.meeting = self.root / "meet"
        self.data = self.root / "data"
        self.processes = []
        self.clients = []
        self.addCleanup(self.end_all)
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("IKKUNA", "SLURM", "TORCHELASTIC")) and name not in ("RANK", "WORLD_SIZE")}
        self.environment = {**kept, "IKKUNA_DIR": str(self.meeting), "OMP_NUM_THREADS": "1"}

    def end_all(self):
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.end()
        for pid in self.alive():  # a daemon that was let go
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def start(self, command, **environment):
        log = self.root / f"{len(self.processes)}-{pathlib.Path(command[0]).name}.log"
        process = Process(command, {**self.environment, **environment}, log)
        self.processes.append(process)
        return process

    def start_daemon(self, *arguments, program=BIN / "ikkuna-daemon"):
        """A daemon that answers, and a client of it, as self.daemon and self.client."""
        self.daemon = self.start([program, "--data-dir", self.data, *arguments])
        self.client = Client(self.meeting)
        self.clients.append(self.client)

        def answers():
            if not self.daemon.running():
                raise AssertionError(f"the daemon ended with {self.daemon.wait()}:\n{self.daemon.log()}")
            try:
                return self.client.status()
            except grpc.RpcError:
                return None

        wait_until(answers, lambda: f"the daemon does not answer:\n{self.daemon.log()}")
        return self.daemon

    def stop_daemon(self):
        self.daemon.signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(), 0, self.daemon.log()[-4000:])

    def start_trainer(self, *arguments, **environment):
        return self.start([BIN / "ikkuna-train", "--threads", "1", *arguments], **environment)

    def follow(self, trainer, most):
        """To its end. It stands while the daemon is more than so many records behind it: what finds no room is dropped."""
        def in_flight():
            producer = self.client.producer()
            return producer.accounting.in_flight if producer else 0

        while trainer.running():
            if in_flight() > most:
                trainer.signal(signal.SIGSTOP)
                wait_until(lambda: in_flight() < most // 8, lambda: f"what the trainer made is not read: {self.client.status()}")
                trainer.signal(signal.SIGCONT)
            time.sleep(0.02)

    def train(self, *arguments, **environment):
        """Runs a trainer to its end, which is to be a good one."""
        trainer = self.start_trainer(*arguments, **environment)
        trainer.expect_success()
        return trainer

    def settled_producer(self, *states):
        """The producer once it is in one of the states and nothing of it is under way."""
        wanted = [pb.ProducerState.Value(f"PRODUCER_STATE_{state}") for state in states or ("FINISHED",)]

        def settled():
            producer = self.client.producer()
            return producer if producer and producer.state in wanted and producer.accounting.in_flight == 0 else None

        return wait_until(settled, lambda: f"the producer does not come to rest:\n{self.client.status()}")

    def assert_accounts(self, producer):
        """Every record that the trainer attempted is accounted for, once."""
        a = producer.accounting
        # What nobody counted ends up there: at most one a thread of a trainer that died, none of one that ended.
        self.assertLessEqual(a.killed, 0 if producer.state == pb.PRODUCER_STATE_FINISHED else 1, str(a))
        self.assertEqual(a.handled + a.dropped + a.lost_in_daemon + a.killed + a.in_flight, a.attempted, str(a))
        self.assertEqual(sum(drop.count for drop in a.drops), a.dropped, str(a))

    def sink(self, name):
        [sink] = [sink for sink in self.client.status().sinks if sink.name == name]
        return sink

    def assert_sinks_account(self):
        """The values of every sink add up, and in the end none waits."""
        sinks = []

        def at_rest():  # for a moment at least: the daemon's own health comes once a second
            sinks[:] = self.client.status().sinks
            for sink in sinks:  # at any time
                self.assertEqual(sink.offered, sink.written + sink.dropped + sink.waiting, str(sink))
            return all(sink.waiting == 0 for sink in sinks)

        wait_until(at_rest, lambda: f"a sink does not come to rest: {sinks}")

    def alive(self):
        """Process numbers of this test that still run."""
        for process in pathlib.Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            try:
                if str(self.meeting).encode() in (process / "environ").read_bytes():
                    yield int(process.name)
            except OSError:
                continue  # it ended meanwhile, or is somebody else's

    def leftovers(self):
        """Processes of this test that still run, with the memory objects they hold, and sockets in its folder."""
        found = []
        for pid in self.alive():
            process = pathlib.Path(f"/proc/{pid}")
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"process {process.name}: {command}")
                for link in (process / "fd").iterdir():
                    if "memfd:ikkuna" in os.readlink(link):
                        found.append(f"  holds {os.readlink(link)}")
            except OSError:
                continue  # it ended meanwhile, or is somebody else's
        if self.meeting.exists():
            found += [f"file {path}" for path in self.meeting.rglob("*") if path.is_socket()]
        found += [f"file {path}" for path in pathlib.Path("/dev/shm").glob("ikkuna*")]
        return found

    def assert_nothing_left(self):
        self.assertEqual(self.leftovers(), [])


def main():
    """Runs the tests of a file; without the training data they are skipped, loudly."""
    if not FASHION_MNIST.is_dir():
        print("SKIP: no Fashion-MNIST: apt-get install dataset-fashion-mnist")
        sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is cleaned up
    unittest.main(verbosity=2)
