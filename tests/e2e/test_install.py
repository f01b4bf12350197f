"""Installs Ikkuna into a prefix, builds a trainer outside the tree against it, and watches that with the installed daemon."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import harness
from harness import SOURCE, pb

BUILD = pathlib.Path(os.environ.get("IKKUNA_BUILD_DIR", SOURCE / "build/release"))
CMAKE = os.environ.get("IKKUNA_CMAKE", "cmake")
BUILD_WATCHDOG_S = 600


def run(*command):
    """Runs to success, or fails with all that the command said."""
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=BUILD_WATCHDOG_S)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout


class InstallTest(harness.Site):
    @classmethod
    def setUpClass(cls):
        root = pathlib.Path(tempfile.mkdtemp(prefix="ikkuna-install-"))
        cls.addClassCleanup(shutil.rmtree, root, True)
        cls.prefix = root / "prefix"
        run(CMAKE, "--install", BUILD, "--prefix", cls.prefix)
        # Outside the tree in earnest: a header found by its way from the repository would hide a missing one.
        shutil.copytree(SOURCE / "tests/e2e/outside_trainer", root / "trainer")
        launcher = shutil.which("ccache")
        run(CMAKE, "-S", root / "trainer", "-B", root / "build", f"-DCMAKE_PREFIX_PATH={cls.prefix}",
            "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror", *([f"-DCMAKE_CXX_COMPILER_LAUNCHER={launcher}"] if launcher else []))
        run(CMAKE, "--build", root / "build")
        cls.trainer = root / "build/outside_trainer"
        shutil.copy(SOURCE / "tests/e2e/outside_job.c", root)
        libraries = next(cls.prefix.glob("lib*/**/libikkuna_probe_c.so")).parent
        cls.job = root / "outside_job"
        run("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", root / "outside_job.c", "-I", cls.prefix / "include", "-L",
            libraries, "-likkuna_probe_c", f"-Wl,-rpath,{libraries}", "-o", cls.job)

    def test_prefix_has_what_a_user_needs(self):
        for name in ("bin/ikkuna-daemon", "bin/ikkuna", "bin/ikkuna-train", "include/ikkuna/probe.hpp", "include/ikkuna/probe.h",
                     "share/ikkuna/proto/ikkuna/v1/monitor.proto"):
            self.assertTrue((self.prefix / name).is_file(), name)
        self.assertTrue(list(self.prefix.glob("lib*/**/libikkuna_probe.so")))

    def test_nothing_points_into_the_tree(self):
        for binary in [*self.prefix.glob("bin/*"), *self.prefix.glob("lib*/**/*.so")]:
            self.assertNotIn(str(BUILD), run("readelf", "-d", binary), binary)
        for text in self.prefix.glob("lib*/**/*.cmake"):
            self.assertNotIn(f"{BUILD}/", text.read_text(), text)
            self.assertNotIn(f"{SOURCE}/", text.read_text(), text)

    def test_headers_stand_alone(self):
        headers = list((self.prefix / "include").rglob("*.h*"))
        self.assertTrue(headers)
        for header in headers:
            self.assertNotRegex(header.read_text(), r'#include "(probe|shared|daemon|metrics)/', header)

    def test_trains_without_a_daemon(self):
        for program in (self.trainer, self.job):
            self.start([program]).expect_success()
        self.assert_nothing_left()

    def test_the_c_library_is_free_of_libtorch(self):
        needed = run("ldd", self.job)
        self.assertIn("libikkuna_probe_c.so", needed)
        self.assertNotRegex(needed, "not found|torch|c10")

    def test_the_libraries_give_what_their_headers_declare_and_nothing_else(self):
        header = (self.prefix / "include/ikkuna/probe.h").read_text()
        functions = set(re.findall(r"^IKKUNA_API .*?(ikkuna_\w+)\(", header, re.MULTILINE))
        self.assertGreater(len(functions), 10)
        self.assertEqual(self.symbols("libikkuna_probe_c.so"), functions)
        methods = self.symbols("libikkuna_probe.so") - functions
        self.assertGreater(len(methods), 10)
        self.assertEqual([name for name in methods if not re.match(r"ikkuna::Probe::~?\w+(\[abi:cxx11\])?\(", name)], [])

    def symbols(self, library):
        listing = run("nm", "-DC", "--defined-only", next(self.prefix.glob(f"lib*/**/{library}")))
        return {line.split(maxsplit=2)[2] for line in listing.splitlines()}

    def test_the_c_package_looks_for_no_libtorch(self):
        project = self.root / "job"
        project.mkdir()
        shutil.copy(SOURCE / "tests/e2e/outside_job.c", project)
        (project / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.25)\nproject(job LANGUAGES C)\nfind_package(ikkuna REQUIRED COMPONENTS c)\n"
            "add_executable(job outside_job.c)\ntarget_link_libraries(job PRIVATE ikkuna::probe_c)\n")
        said = run(CMAKE, "-S", project, "-B", project / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}")
        self.assertNotIn("orch", said)
        run(CMAKE, "--build", project / "build")
        self.start([project / "build/job"]).expect_success()

    def test_a_client_stops_a_job_in_c(self):
        self.start_daemon("--no-default", "--subscribe", "loss", program=self.prefix / "bin/ikkuna-daemon")
        job = self.start([self.job, "until-stopped"], IKKUNA_WAIT_MS="120000")
        harness.wait_until(lambda: self.client.producer() and self.client.producer().steps_total > 100, "the job does not go on")
        self.assertTrue(job.running(), job.log())
        ikkuna = lambda *words: subprocess.run([self.prefix / "bin/ikkuna", *words], env=self.environment, capture_output=True,
                                               text=True, timeout=harness.WATCHDOG_S)
        refused = ikkuna("freeze", "fc1")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("stop", refused.stderr)  # what it takes instead
        self.assertEqual(ikkuna("stop").returncode, 0)
        job.expect_success()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertGreater(producer.steps_total, 100)

    def test_installed_daemon_watches_a_job_in_c(self):
        self.start_daemon("--no-default", "--subscribe", "loss; sum(weights); norm(weights, order=3)",
                          program=self.prefix / "bin/ikkuna-daemon")
        job = self.start([self.job], IKKUNA_WAIT_MS="120000")
        job.expect_success()
        self.assertRegex(job.log(), "ikkuna: watching net; a daemon listens; run ")
        producer = self.settled_producer()
        self.assert_accounts(producer)
        self.assertEqual(producer.roots[0].phase, pb.PHASE_IDLE)
        self.assertEqual(producer.roots[0].step, 40)
        self.assertGreater(producer.probe_cost, 0)
        losses = self.client.everything(topic="loss")
        self.assertEqual(list(losses.values()), [{step: 1 / (step + 1) for step in range(40)}])
        [loss] = self.client.series(topic="loss")
        self.assertEqual({sample.step: sample.samples_seen for sample in self.client.samples(loss)},
                         {step: 32 * (step + 1) for step in range(40)})
        self.assertEqual(producer.roots[0].samples_seen, 32 * 40)
        (norms,) = self.client.everything(topic="weights_norm3").values()
        self.assertEqual(len(norms), 40)
        for step, norm in norms.items():
            self.assertAlmostEqual(norm, 2 ** (1 / 3) * step, places=5)
        self.stop_daemon()
        self.assert_nothing_left()

    def test_installed_daemon_watches_it(self):
        self.start_daemon(program=self.prefix / "bin/ikkuna-daemon")
        self.start([self.trainer], IKKUNA_WAIT_MS="120000").expect_success()
        producer = self.settled_producer()
        self.assert_accounts(producer)
        losses = self.client.everything(topic="loss")
        self.assertEqual(len(losses), 1, losses)
        self.assertGreater(sum(len(samples) for samples in losses.values()), 0)
        self.stop_daemon()
        self.assert_nothing_left()


if __name__ == "__main__":
    harness.main()
