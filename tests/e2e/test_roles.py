"""Who may ask the daemon what: tokens and client certificates with a client of Python, other users with real ones."""

import os
import signal
import subprocess

import harness
from harness import BIN, TEST_BIN, WATCHDOG_S, grpc, pb, pb_grpc, wait_until

READ_TOKEN = "0123456789abcdef0123456789abcdef"
CONTROL_TOKEN = "fedcba9876543210fedcba9876543210"
OTHER_UID = 4242


class Authority:
    """Certificates as an operator makes them, with the openssl command."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                     "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem")

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True,
                       timeout=WATCHDOG_S)

    def sign(self, name):
        """Files of a certificate and its key."""
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                     f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (self.folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key",
                     "-CAcreateserial", "-days", "30", "-extfile", "extensions", "-out", f"{name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def pem(self):
        return (self.folder / f"{self.name}.pem").read_bytes()


class RolesTest(harness.Site):
    def setUp(self):
        super().setUp()
        self.authority = Authority(self.root, "authority")
        self.tokens = self.root / "tokens"
        self.write_tokens(f"# ours\nread {READ_TOKEN} board\ncontrol {CONTROL_TOKEN}\n")

    def write_tokens(self, text):
        self.tokens.write_text(text)
        self.tokens.chmod(0o600)

    def start_secure_daemon(self, *arguments):
        cert, key = self.authority.sign("localhost")
        key.chmod(0o600)
        self.start_daemon("--listen", "localhost:0", "--tls-cert", cert, "--tls-key", key, "--tls-client-ca",
                          self.root / "authority.pem", "--token-file", self.tokens, "--control-certificate", "anna", *arguments)
        # It is written when the doors are open already.
        [line, *_] = wait_until(lambda: [line for line in self.daemon.log().split("\n")[:-1] if "TCP port" in line],
                                lambda: f"no port is told: {self.daemon.log()}")
        self.port = int(line.split("TCP port ")[1].split(";")[0].split()[0])

    def stub(self, name=None):
        """A connection of its own, with a certificate where a name is given."""
        pair = [path.read_bytes() for path in self.authority.sign(name)] if name else [None, None]
        credentials = grpc.ssl_channel_credentials(self.authority.pem(), pair[1], pair[0])
        channel = grpc.secure_channel(f"localhost:{self.port}", credentials, [("grpc.use_local_subchannel_pool", 1)])
        self.addCleanup(channel.close)
        return pb_grpc.MonitorStub(channel)

    def role(self, stub, token=None):
        metadata = [("authorization", f"Bearer {token}")] if token else None
        answer = stub.GetStatus(pb.GetStatusRequest(), metadata=metadata, timeout=WATCHDOG_S)
        return pb.Role.Name(answer.role).removeprefix("ROLE_")

    def refusal(self, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        return caught.exception.code(), caught.exception.details()

    def reload(self, kind):
        """The text of the event that says what came of it."""
        before = len([event for event in self.client.events() if event.kind == kind])
        self.daemon.signal(signal.SIGHUP)

        def told():
            events = [event for event in self.client.events() if event.kind == kind]
            return events[-1].text if len(events) > before else None

        return wait_until(told, lambda: f"no event {kind}: {self.daemon.log()}")

    def test_tokens_and_certificates(self):
        self.start_secure_daemon()
        bare, anna, bob = self.stub(), self.stub("anna"), self.stub("bob")
        self.assertEqual(self.role(bare, READ_TOKEN), "READ")
        self.assertEqual(self.role(bare, CONTROL_TOKEN), "CONTROL")
        self.assertEqual(self.role(anna), "CONTROL")
        self.assertEqual(self.role(bob), "READ")
        code, text = self.refusal(lambda: self.role(bare))
        self.assertEqual(code, grpc.StatusCode.UNAUTHENTICATED)
        self.assertIn("neither a token nor a client certificate", text)
        # Who reads computes nothing for everybody.
        code, _ = self.refusal(lambda: bob.AddSubscribers(pb.AddSubscribersRequest(text="max(weights)"), timeout=WATCHDOG_S))
        self.assertEqual(code, grpc.StatusCode.PERMISSION_DENIED)
        anna.AddSubscribers(pb.AddSubscribersRequest(text="max(weights)"), timeout=WATCHDOG_S)
        # The command line client with the daemon's own token file, and with a certificate.
        for arguments in [["--token-file", self.tokens], ["--tls-cert", self.root / "bob.pem", "--tls-key", self.root / "bob.key"]]:
            result = subprocess.run([BIN / "ikkuna", "status", "--address", f"localhost:{self.port}", "--tls-ca",
                                     self.root / "authority.pem", *arguments], env=self.environment, capture_output=True,
                                    text=True, timeout=WATCHDOG_S)
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_sighup_reads_tokens_and_certificates_again(self):
        self.start_secure_daemon()
        bare, anna = self.stub(), self.stub("anna")
        self.assertEqual(self.role(bare, READ_TOKEN), "READ")
        watch = anna.Watch(pb.WatchRequest(), timeout=WATCHDOG_S)
        # A bad file: all stays, and an event says why.
        self.write_tokens("short\n")
        self.assertIn("has 5 characters where a token", self.reload("reload_failed"))
        self.assertEqual(self.role(bare, READ_TOKEN), "READ")
        # A good one, and a new certificate of the daemon: connections go on, and the old token is none.
        self.write_tokens(f"read {CONTROL_TOKEN}\n")
        _, key = self.authority.sign("localhost")
        key.chmod(0o600)
        self.reload("reloaded")
        self.assertEqual(self.role(bare, CONTROL_TOKEN), "READ")
        self.assertEqual(self.refusal(lambda: self.role(bare, READ_TOKEN))[0], grpc.StatusCode.UNAUTHENTICATED)
        self.assertEqual(self.role(anna), "CONTROL")
        self.assertTrue(watch.is_active())
        self.assertEqual(self.role(self.stub(), CONTROL_TOKEN), "READ")
        watch.cancel()

    def test_a_user_controls_their_own_runs(self):
        if os.geteuid() != 0:
            self.skipTest("SKIP: needs root to become another user")
        self.root.chmod(0o711)
        self.start_daemon("--allow-uid", str(OTHER_UID))
        job = self.start([TEST_BIN / "c_job", "--run", "ours", "--steps", "1000000"], IKKUNA_WAIT_MS="120000")
        theirs = subprocess.Popen([TEST_BIN / "c_job", "--run", "theirs", "--steps", "1000000"], user=OTHER_UID,
                                  group=OTHER_UID, extra_groups=[], start_new_session=True,
                                  env={**self.environment, "IKKUNA_WAIT_MS": "120000"}, stdin=subprocess.DEVNULL)
        self.addCleanup(theirs.wait)
        self.addCleanup(theirs.kill)
        wait_until(lambda: {run.name for run in self.client.runs()} >= {"ours", "theirs"},
                   lambda: f"not both run: {self.daemon.log()}{job.log()}")

        def tag(run, uid):
            return subprocess.run([BIN / "ikkuna", "tag", run, "+good"], env=self.environment, capture_output=True, text=True,
                                  user=uid, group=uid, extra_groups=[], timeout=WATCHDOG_S)

        self.assertEqual(tag("theirs", OTHER_UID).returncode, 0)
        refused = tag("ours", OTHER_UID)
        self.assertNotEqual(refused.returncode, 0)
        self.assertTrue(refused.stderr.strip())
        self.assertEqual(tag("ours", 0).returncode, 0)
        self.assertEqual(tag("theirs", 0).returncode, 0)
        stranger = tag("theirs", OTHER_UID + 1)
        self.assertNotEqual(stranger.returncode, 0)
        tags = {run.name: list(run.tags) for run in self.client.runs()}
        self.assertEqual((tags["ours"], tags["theirs"]), (["good"], ["good"]))


if __name__ == "__main__":
    harness.main()
