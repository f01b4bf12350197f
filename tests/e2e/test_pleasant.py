"""What goes wrong at a user's hands is answered by what is wrong, on which object, and what to do; nothing is lost by it.

Each case checks the words that matter and the exit code: 2 for a wrong command line or configuration, 3 where no daemon
answers, 1 for what the machine refuses.
"""

import os
import re
import socket
import signal
import subprocess

import harness
from harness import BIN, pb, wait_until

DAEMON, CLIENT, TRAINER = BIN / "ikkuna-daemon", BIN / "ikkuna", BIN / "ikkuna-train"
NOBODY = 65534


class PleasantSite(harness.Site):
    def says(self, code, command, *parts, **options):
        """Ends with that code, nothing on stdout, and all of the words on stderr."""
        result = subprocess.run([str(word) for word in command], env=options.pop("env", self.environment),
                                capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=harness.WATCHDOG_S,
                                **options)
        self.assertEqual(result.returncode, code, f"{command}:\n{result.stdout}{result.stderr}")
        self.assertEqual(result.stdout, "", f"{command}: a failure belongs on stderr")
        for part in parts:
            self.assertIn(str(part), result.stderr, f"{command}")
        self.assertLess(len(result.stderr), 2000, "nobody reads that much")
        return result.stderr

    def write(self, name, text):
        path = self.root / name
        path.write_text(text)
        return path


class CommandLineTest(PleasantSite):
    def flags(self, *command):
        text = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=harness.WATCHDOG_S).stdout
        return sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text.split("Example")[0])))

    def test_a_typo_in_each_flag_is_answered_with_the_flag(self):
        commands = [[DAEMON], [TRAINER]] + [[CLIENT, name] for name in (
            "status", "runs", "series", "modules", "table", "top", "watch", "plot", "read", "subscribe", "unsubscribe",
            "subscribers", "metrics", "events", "freeze", "unfreeze", "stop", "run", "texts", "histogram", "export", "import",
            "delete", "tag", "why", "publish")]
        tried = 0
        for command in commands:
            flags = self.flags(*command)
            self.assertGreaterEqual(len(flags), 2, command)
            # Of the client's commands, which share most flags, one typo each; its unit test has them all.
            for flag in flags if len(command) == 1 else [flags[tried % len(flags)]]:
                typos = {flag + "x"}
                if len(flag) > 6:  # one letter is missing; two have changed places
                    typos |= {flag[:-1], flag[:3] + flag[4] + flag[3] + flag[5:]}
                for typo in typos - set(flags):
                    words = " ".join([command[0].name, *command[1:]])
                    error = self.says(2, [*command, typo], f"there is no flag '{typo}'; did you mean '--",
                                      f"'{words} --help' shows what it takes")
                    tried += 1
                    meant = re.search(r"did you mean '(--[a-z-]+)'", error).group(1)
                    self.assertIn(meant, flags)
                    if typo == flag + "x":
                        self.assertEqual(meant, flag)
        self.assertGreater(tried, 80)

    def test_words_that_are_none(self):
        self.says(2, [CLIENT, "statsu"], "there is no command 'statsu'; did you mean 'status'?")
        self.says(2, [CLIENT], "ikkuna --help")
        self.says(2, [DAEMON, "start"], "'start' is one word too many")
        self.says(2, [TRAINER, "--model", "tinny"], "--model", "tinny", "tiny")
        self.says(2, [TRAINER, "--lr", "fast"], "--lr: 'fast' is not a number above 0")
        self.says(2, [TRAINER, "--epochs", "0"], "--epochs: '0' is not a number above 0")
        self.says(2, [TRAINER, "--budget", "1"], "--budget: '1' is neither a share such as 1%")
        self.says(2, [DAEMON, "--store-max-mb", "lots"], "--store-max-mb: 'lots' is no number")
        self.says(2, [DAEMON, "--log-level", "loud"], "--log-level: 'loud' is none of debug, info")
        self.says(2, [DAEMON, "--budget", "1"], "--budget: '1' is neither a share such as 1%")

    def test_a_metric_that_is_none(self):
        self.says(2, [DAEMON, "--subscribe", "nrom(weights)"], "'nrom(weights)'", "no metric 'nrom'; did you mean 'norm'?")
        self.says(2, [DAEMON, "--subscribe", "norm(wieghts)"], "'wieghts'; did you mean 'weights'?")
        self.says(2, [DAEMON, "--subscribe", "norm(weights, oder=2)"], "no option 'oder'; did you mean 'order'?")
        self.start_daemon()
        before = [subscriber.text for subscriber in self.client.subscribers()]
        self.says(2, [CLIENT, "subscribe", "loss; nrom(weights)"], "no metric 'nrom'; did you mean 'norm'?")
        self.says(1, [CLIENT, "unsubscribe", "los"], "there is no topic 'los'; did you mean 'loss'?")
        self.assertEqual([subscriber.text for subscriber in self.client.subscribers()], before)

    def test_a_configuration_that_is_none(self):
        self.says(2, [DAEMON, "--config", self.root / "none.toml"], self.root / "none.toml", "No such file", "--print-config")
        self.says(2, [DAEMON, "--config", self.root], f"'{self.root}'", "directory", "--print-config")
        self.says(2, [DAEMON, "--config", self.write("a.toml", 'data_dir = "x"\nbudgte = "1%"\n')],
                  "a.toml:2: unknown key 'budgte'; did you mean 'budget'?")
        self.says(2, [DAEMON, "--config", self.write("b.toml", "listen = [\nx")], "b.toml:2:")
        self.says(2, [DAEMON, "--config", self.write("c.toml", "store_max_mb = 'lots'\n")],
                  "c.toml:1: 'store_max_mb' must be a whole number")
        self.says(2, [DAEMON, "--config", self.write("d.toml", "subscribe = ['nrom(weights)']\n")],
                  "no metric 'nrom'; did you mean 'norm'?")


class PlacesTest(PleasantSite):
    def test_a_path_that_is_wrong(self):
        a_file = self.write("file", "")
        nowhere = self.root / "none"
        data = ["--data-dir", self.data]
        tcp = [*data, "--listen", "localhost:0"]
        self.says(1, [DAEMON, "--dir", a_file, *data], f"'{a_file}'", "directory", "pass --dir or set IKKUNA_DIR")
        self.says(1, [DAEMON, "--dir", nowhere / "deeper", *data], f"'{nowhere / 'deeper'}'", "No such file", "pass --dir")
        self.says(1, [DAEMON, "--data-dir", a_file], f"'{a_file}'", "Not a directory", "pass --data-dir")
        self.says(1, [DAEMON, *data, "--tensorboard-dir", a_file], f"'{a_file}'", "pass --tensorboard-dir")
        self.says(1, [DAEMON, *tcp, "--token-file", nowhere], "--token-file", f"'{nowhere}'", "No such file")
        self.says(1, [DAEMON, *tcp, "--token-file", a_file], "--token-file", f"'{a_file}'")
        token = self.write("good-token", "0123456789abcdef" * 4)
        token.chmod(0o600)
        tls = [DAEMON, *tcp, "--token-file", token]
        self.says(1, [*tls, "--tls-cert", nowhere, "--tls-key", a_file], "--tls-cert", f"'{nowhere}'", "No such file")
        self.says(1, [*tls, "--tls-cert", self.write("cert", "x"), "--tls-key", nowhere], "--tls-key", f"'{nowhere}'",
                  "No such file")
        self.says(1, [DAEMON, *data, "--token-file", token, "--listen", "nonsense"],
                  "--listen 'nonsense' is no address; pass host:port")
        readable = self.write("readable", "0123456789abcdef" * 4)
        self.says(1, [DAEMON, *tcp, "--token-file", readable], "--token-file", f"'{readable}'", "chmod 600")
        self.says(1, [CLIENT, "status", "--address", "localhost:1", "--token-file", nowhere], "--token-file", nowhere)
        self.says(1, [CLIENT, "status", "--address", "localhost:1", "--tls-ca", nowhere], "--tls-ca", nowhere)
        self.says(0, [CLIENT, "run", "--data-dir", a_file, "--", "true"], f"'{a_file}'", "pass --data-dir")
        self.says(127, [CLIENT, "run", "--data-dir", self.data, "--", nowhere], f"'{nowhere}'", "No such file")
        subprocess.run([CLIENT, "down"], env=self.environment, check=True, capture_output=True, timeout=harness.WATCHDOG_S)
        quick = [TRAINER, "--model", "tiny", "--max-steps", "2", "--test-images", "0"]
        self.says(1, [*quick, "--data-dir", nowhere], nowhere, "dataset-fashion-mnist", "--data-dir")
        self.says(1, [*quick, "--losses", nowhere / "losses"], f"'{nowhere / 'losses'}'", "--losses", "No such file")
        self.says(1, [*quick, "--dump-dir", a_file], f"'{a_file}'", "--dump-dir")
        self.assert_nothing_left()

    def test_a_client_without_a_daemon(self):
        for command in (["status"], ["plot", "loss"], ["subscribe", "loss"], ["top", "--once"]):
            self.says(3, [CLIENT, *command], f"unix:{self.meeting}/grpc.sock", "start one with 'ikkuna up'")
        self.says(3, [CLIENT, "status", "--address", self.root / "x.sock"], self.root / "x.sock", "--address")

    def test_a_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            token = self.write("token", "0123456789abcdef0123456789abcdef\n")
            token.chmod(0o600)
            self.says(1, [DAEMON, "--data-dir", self.data, "--listen", address, "--token-file", token], address, "in use",
                      "--listen")
        self.assert_nothing_left()
        # The same command once the port is free: nothing of the failure is in the way.
        self.start_daemon("--listen", address, "--token-file", token)
        self.stop_daemon()

    def test_two_daemons_in_one_directory(self):
        self.start_daemon("--budget", "off")
        trainer = self.start_trainer("--model", "tiny", "--max-steps", "400", "--test-images", "0", "--budget", "off",
                                     IKKUNA_WAIT_MS="120000")
        self.says(1, [DAEMON, "--data-dir", self.root / "other"], f"a daemon already serves '{self.meeting}'",
                  f"process {self.daemon.pid}", "IKKUNA_DIR")
        # Another meeting place, but the same store.
        self.says(1, [DAEMON, "--dir", self.root / "elsewhere", "--data-dir", self.data], f"{self.data}", "--data-dir",
                  f"{self.daemon.pid}")
        trainer.expect_success()
        self.assert_accounts(self.settled_producer())
        [loss] = self.client.everything(topic="loss", tag="default").values()
        self.assertEqual(sorted(loss), list(range(400)), "the first daemon was disturbed")

    def test_no_permission(self):
        if os.geteuid() != 0:
            self.skipTest("LOUD: needs root, to become somebody else")
        somebody = dict(user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
        self.root.chmod(0o755)
        if subprocess.run([DAEMON, "--version"], capture_output=True, **somebody).returncode != 0:
            self.skipTest("LOUD: the programs cannot be run by another user here")
        self.data.mkdir(mode=0o755)
        theirs = self.root / "theirs"
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
        self.says(1, [DAEMON, "--dir", theirs / "meet", "--data-dir", self.data], f"'{self.data}/hosts'",
                  "ermission denied", "pass --data-dir", **somebody)
        self.says(1, [DAEMON, "--dir", theirs / "meet", "--data-dir", theirs / "data", "--tensorboard-dir", self.data / "tb"],
                  f"'{self.data / 'tb'}'", "ermission denied", "pass --tensorboard-dir", **somebody)
        self.says(1, [DAEMON, "--dir", self.root / "mine", "--data-dir", theirs / "data"], f"'{self.root / 'mine'}'",
                  "ermission denied", "pass --dir", **somebody)
        secret = self.write("token", "0123456789abcdef0123456789abcdef\n")
        secret.chmod(0o600)
        self.says(1, [DAEMON, "--dir", theirs / "meet", "--data-dir", theirs / "data", "--listen", "localhost:0",
                      "--token-file", secret], "--token-file", f"'{secret}'", "ermission denied", **somebody)
        # A daemon of ours, a client of theirs.
        self.start_daemon()
        self.meeting.chmod(0o711)
        (self.meeting / "grpc.sock").chmod(0o666)
        error = self.says(3, [CLIENT, "status"], "belongs to user 0", f"--allow-uid {NOBODY}", **somebody)
        self.assertNotIn("Traceback", error)


class FullDiskTest(PleasantSite):
    def setUp(self):
        super().setUp()
        self.data.mkdir()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", self.data],
                                               capture_output=True).returncode != 0:
            self.skipTest("LOUD: needs root, to mount a small disk")
        self.addCleanup(subprocess.run, ["umount", "-l", self.data])
        self.addCleanup(self.end_all)  # before that

    def fill(self, sizes=(1 << 20, 1 << 16, 1 << 12, 1)):
        """Nothing more fits; returns what has to go so that it does."""
        filler = self.data / "filler"
        with open(filler, "ab", buffering=0) as file:
            for size in sizes:
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    pass
        return filler

    def test_a_full_disk_refuses_a_new_store(self):
        self.fill()
        self.says(1, [DAEMON, "--data-dir", self.data, "--no-tensorboard"], f"'{self.data}/", "No space left",
                  "free some space or pass --data-dir")

    def train_500(self):
        self.train("--model", "tiny", "--max-steps", "500", "--test-images", "0", "--budget", "off", IKKUNA_WAIT_MS="120000")

    def events(self, kind):
        return [event for event in self.client.events() if event.kind == kind]

    def store(self):
        return next(sink for sink in self.client.status().sinks if sink.name == "store")

    def everything_is_kept(self):
        store = self.store()
        return (all(producer.accounting.in_flight == 0 for producer in self.client.status().producers) and
                0 < store.offered == store.written)

    def test_a_disk_that_fills_up_pauses_the_store_and_nothing_else(self):
        self.start_daemon("--no-tensorboard", "--budget", "off")
        self.train_500()
        wait_until(self.everything_is_kept, lambda: str(self.client.status()))
        filler = self.fill()
        # Nobody can keep that event now: the log has it, and status.
        wait_until(lambda: "store_paused" in self.daemon.log(), lambda: self.daemon.log())
        self.assertRegex(self.daemon.log(), r"store_paused: Only .* are free on the file system of '.*': nothing is recorded")
        self.assertTrue(self.client.status().store.paused)
        before = self.store()
        self.train_500()
        wait_until(lambda: self.store().dropped > before.dropped, lambda: str(self.client.status()))
        shown = subprocess.run([CLIENT, "status"], env=self.environment, capture_output=True, text=True,
                               timeout=harness.WATCHDOG_S)
        self.assertIn("paused", shown.stdout, shown.stderr)
        filler.unlink()
        wait_until(lambda: self.events("store_resumed"), lambda: self.daemon.log())
        self.train_500()
        wait_until(lambda: all(producer.accounting.in_flight == 0 for producer in self.client.status().producers),
                   "records stay in flight")
        for producer in self.client.status().producers:
            self.assert_accounts(producer)
        self.assert_sinks_account()
        # Those of before and after are whole; of the one between nothing is shown that is not true.
        def whole():
            losses = [sorted(loss) for run in self.client.runs()
                      for loss in self.client.everything(run=run.key.run_id, topic="loss", tag="default").values()]
            return losses.count(list(range(500)))

        wait_until(lambda: whole() == 2, lambda: f"{whole()}: {self.client.runs()} {self.daemon.log()}")
        # What was dropped is not kept, and its end says so.
        self.daemon.signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(), 3, self.daemon.log()[-4000:])
        self.assertIn("the store dropped values since it started (paused ", self.daemon.log())


if __name__ == "__main__":
    harness.main()
