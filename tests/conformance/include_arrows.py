"""Keeps the tree's shape: which folder may include what, and what stands at the top level."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(os.environ.get("IKKUNA_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
FOLDERS = ["probe", "daemon", "proto", "shared", "metrics", "deploy", "tests"]
TOP_LEVEL = FOLDERS + ["CMakeLists.txt", "CMakePresets.json", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"]
SOURCES = {".h", ".hpp", ".cc", ".cu", ".c"}
MAX_LINES = 600

TORCH = r"(torch|ATen|c10)/"
RPC = r"(grpc|grpcpp|google/protobuf|absl)/|.*\.pb\.h$|proto/"
TORCH_PROBE = r"(probe/torch/|ikkuna/probe\.hpp$)"

# folder -> what its files may not include; the longest folder that fits a file decides.
FORBIDDEN = {
    "shared": [TORCH, RPC, r"(probe|metrics|daemon)/"],
    "shared/base": [TORCH, RPC, r"(probe|metrics|daemon)/", r"shared/(?!base/)"],
    "shared/stats": [TORCH, RPC, r"(probe|metrics|daemon)/", r"shared/(?!base/|stats/|codes\.h)"],
    "probe": [RPC, r"(metrics|daemon)/"],
    "probe/core": [TORCH, RPC, r"(metrics|daemon)/", TORCH_PROBE],
    "metrics": [RPC, r"(probe|daemon)/", r"shared/(?!base/|stats/|codes\.h|tensor_message\.h)"],
    "daemon": [r"probe/"],
    "daemon/model": [RPC, TORCH, r"probe/", r"daemon/(?!model/)"],
    "daemon/graph": [RPC, TORCH, r"probe/", r"daemon/(?!model/|graph/)"],
    "daemon/ingest": [RPC, TORCH, r"probe/", r"daemon/(?!model/|ingest/)"],
    "daemon/sinks": [r"grpc", TORCH, r"probe/", r"daemon/(?!model/|sinks/)"],
    "daemon/monitor": [RPC, TORCH, r"probe/", r"daemon/(service|cli)/"],
    "daemon/service": [TORCH, r"probe/", r"daemon/(?!model/|monitor/|service/)"],
    "daemon/cli": [TORCH, r"probe/", r"daemon/(graph|ingest)/"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


def rules_of(path):
    best = max((folder for folder in FORBIDDEN if path.startswith(folder + "/")), key=len, default=None)
    return FORBIDDEN.get(best, [])


def complaints_about(path, text):
    """What is wrong with one source file; `path` is relative to the root."""
    found = []
    rules = rules_of(path)
    includes = [(n, m.group(1)) for n, line in enumerate(text.splitlines(), 1) if (m := INCLUDE.match(line))]
    for number, included in includes:
        for rule in rules:
            if re.match(rule, included):
                found.append(f"{path}:{number}: may not include {included}")
                break
    torch = any(re.match(TORCH, included) for _, included in includes)
    rpc = any(re.match(RPC, included) for _, included in includes)
    if torch and rpc:
        found.append(f"{path}: includes LibTorch and protocol buffers, which bring two versions of the same headers")
    if len(text.splitlines()) > MAX_LINES:
        found.append(f"{path}: more than {MAX_LINES} lines; split it by noun")
    return found


def check_itself():
    """The check must bite before its silence means anything."""
    cases = [
        ("shared/ring.cc", "#include <torch/torch.h>\n", True),
        ("shared/ring.cc", '#include "shared/base/result.h"\n', False),
        ("probe/core/session.cc", "#include <ATen/ATen.h>\n", True),
        ("probe/torch/layers.cc", "#include <ATen/ATen.h>\n", False),
        ("probe/torch/layers.cc", "#include <grpcpp/grpcpp.h>\n", True),
        ("metrics/norm.cc", '#include "shared/ring.h"\n', True),
        ("metrics/norm.cc", '#include "daemon/graph/graph.h"\n', True),
        ("daemon/graph/bus.cc", '#include "ikkuna/v1/monitor.pb.h"\n', True),
        ("daemon/graph/bus.cc", '#include "daemon/model/batch.h"\n', False),
        ("daemon/graph/bus.cc", '#include "daemon/monitor/monitor.h"\n', True),
        ("daemon/ingest/reader.cc", '#include "daemon/graph/graph.h"\n', True),
        ("daemon/sinks/store.cc", '#include "daemon/ingest/ingest.h"\n', True),
        ("daemon/model/names.cc", '#include "daemon/graph/graph.h"\n', True),
        ("daemon/ingest/reader.cc", '#include "probe/core/session.h"\n', True),
        ("shared/long.h", "\n" * (MAX_LINES + 1), True),
    ]
    for path, text, expected in cases:
        if bool(complaints_about(path, text)) != expected:
            sys.exit(f"include_arrows is blind: {path} with {text.strip()!r} should {'' if expected else 'not '}be refused")


def top_level_names():
    if shutil.which("git"):
        listing = subprocess.run(["git", "-C", str(ROOT), "ls-tree", "--name-only", "HEAD"], capture_output=True, text=True)
        if listing.returncode == 0:
            return listing.stdout.split()
    # A source archive has no history: then what lies there is what counts, but for build outputs.
    return os.listdir(ROOT)


def top_level_complaints():
    return [f"top level: {name} belongs into one of {', '.join(FOLDERS)}" for name in top_level_names()
            if name not in TOP_LEVEL and not name.startswith(".") and name not in ("build", "ikkuna-data")]


def main():
    check_itself()
    found = top_level_complaints()
    checked = 0
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SOURCES and path.is_file():
                checked += 1
                found += complaints_about(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    if checked == 0:
        found.append(f"no source files under {ROOT}")
    print("\n".join(found) or f"{checked} source files keep to their folders")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
