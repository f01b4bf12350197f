"""Nothing stands in the contract of the two processes that only one of them knows: each flag, drop reason, command,
kind, state and word of status has who writes it, who reads it and a test, or is reserved here, with what it is for.
Looked up in the sources without their comments; what is reserved and has all three by now is an error, too."""

import functools
import os
import pathlib
import re
import unittest

from layout_tables import CODES, HEADER, STRUCTURES, enum

ROOT = pathlib.Path(os.environ.get("IKKUNA_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))

DEVICES = "payloads of a GPU: one pool a device, and its events"
RESERVED = {
    "DropReason::pool_full": DEVICES,
    "Space::device_pool": DEVICES,
    "EntryType::device_pool": DEVICES,
    "EntryType::device_event": DEVICES,
    "FeatureBit::device_pool": DEVICES,
    "CtlState::pool_head": DEVICES,
    "CtlState::event_head": DEVICES,
    "CommandType::evaluate": "an evaluation of the daemon's own on a snapshot of the weights",
    "CommandType::capture": "the action of a rule that dumps the tensors of the next steps",
    "CtlState::committed_seq": "a probe that gives a snapshot back once its results are kept",
}
# The state of rest, which a reader knows as none of the others.
AT_REST = {"ProducerState::running", "Phase::idle", "Control::none"}


def text_of(*patterns, leave_out=()):
    """The sources that the patterns name, without comments."""
    text = []
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            if path.suffix not in {".h", ".cc", ".inc", ".hpp", ".py"} or path.name in leave_out:
                continue
            source = path.read_text(encoding="utf-8")
            if path.suffix != ".py":
                source = re.sub(r"//[^\n]*", "", source)
            text.append(source)
    return "\n".join(text)


CONTRACT = ("codes.h", "codes.cc", "layout.h")
PROBE = text_of("probe/**/*", "shared/pub_writer.cc", "shared/pub.h",
                leave_out=CONTRACT)
# What a status says is read in pub_view.cc word by word, which is no use of it.
DAEMON = re.sub(r"CopyWord\([^;]*;", "", text_of("daemon/**/*", "metrics/**/*", "shared/pub_view.cc",
                                                 "shared/record_check.cc", "shared/ctl_writer.cc",
                                                 leave_out=CONTRACT))
# A daemon that tests hold by hand writes and reads as the true one does; what is only compared for its place is no test.
TESTS = re.sub(r"EXPECT_AT\([^;]*;", "", text_of("tests/**/*", leave_out=("layout_tables.py", "words.py")))


def camel(name):
    return "k" + "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def has(text, *patterns):
    return any(re.search(pattern, text) for pattern in patterns)


def codes(name, source, writer, reader, spelled, only=None):
    """(full name, has a writer, has a reader, has a test) of each code."""
    for code in only or enum(source, name, spelled[0]):
        patterns = [pattern.format(k=camel(code), K=camel(code)[1:], name=code) for pattern in spelled[1]]
        # Of a kind the tests mostly say the name.
        tested = patterns + ([rf"\b{code}\b"] if name == "Kind" else [])
        full = f"{name}::{code}"
        yield full, has(writer, *patterns), full in AT_REST or has(reader, *patterns), has(TESTS, *tested)


def words(structure, writer, writes, reader, reads):
    for _, _, word in STRUCTURES[structure][0]:
        if structure != "PubStatus" and word.startswith("reserved") or word == "reserved0":
            continue
        yield (f"{structure}::{word}", has(writer, *(form.format(word=word) for form in writes)),
               has(reader, *(form.format(word=word) for form in reads)), has(TESTS, rf"\b{word}\b"))


def look_up():
    """(full name, has a writer, has a reader, has a test)."""
    yield from codes("RecordFlag", CODES, PROBE, DAEMON, ("kFlag", [r"\bkFlag{K}\b"]))
    yield from codes("DropReason", CODES, PROBE, DAEMON, ("k", [r"DropReason::{k}\b", r'"{name}"']))
    yield from codes("RecordType", CODES, PROBE, DAEMON, ("k", [r"RecordType::{k}\b"]))
    yield from codes("Space", CODES, PROBE, DAEMON, ("k", [r"Space::{k}\b"]))
    yield from codes("Kind", CODES, PROBE, DAEMON, ("k", [r"Kind::{k}\b"]))
    yield from codes("Level", CODES, DAEMON, PROBE, ("k", [r"Level::{k}\b"]))
    yield from codes("ProducerState", HEADER, PROBE, DAEMON, ("k", [r"ProducerState::{k}\b"]))
    yield from codes("Phase", HEADER, PROBE, DAEMON, ("k", [r"\bPhase::{k}\b"]))
    yield from codes("Control", HEADER, PROBE, DAEMON, ("k", [r"Control::{k}\b"]))
    yield from codes("CommandType", HEADER, DAEMON, PROBE, ("k", [r"CommandType::{k}\b"]))
    yield from codes("EntryType", HEADER, PROBE, DAEMON, ("k", [r"EntryType::{k}\b"]))
    yield from codes("EntryFlag", HEADER, PROBE, DAEMON, ("kEntry", [r"\bkEntry{K}\b"]))
    yield from codes("FeatureBit", HEADER, PROBE, DAEMON, ("kFeature", [r"\bkFeature{K}\b"]))
    stored = [r"(?:Store|Add)\w*\([^;]*\b{word}\b", r"\b{word}\b[^;=]*\.(?:store|fetch_add)\(", r"atomic_ref<[^;]*\b{word}\b"]
    reads = [r"(?:\.|->|\(\)\.|now\.|shared\.){word}\b"]
    for name, writer, reader, test in words("PubStatus", PROBE, stored, DAEMON, reads):
        # Its roots are written through a function of the session's.
        yield name, writer or (name == "PubStatus::roots" and has(PROBE, r"root_status\(")), reader, test
    # Its words have names that stand everywhere else, too.
    of_root = [r"(?:Store|Add)\w*\([^;,]*(?:status|\))\.{word}\b"]
    yield from words("RootStatus", PROBE, of_root, DAEMON, [r"(?:\.|->){word}\b"])
    # The probe reads these by CtlView's functions.
    for name, writer, _, test in words("CtlState", DAEMON, stored, "", []):
        word = name.split("::")[1]
        function = {"ring_head": "heads", "arena_head": "heads", "late_head": "heads", "pool_head": "pool_heads",
                    "event_head": "pool_heads", "demand_count": "CopyDemand"}.get(word, word)
        yield name, writer, has(PROBE, rf"(?:\.|->){function}\("), test


@functools.cache
def all_words():
    return list(look_up())


class Words(unittest.TestCase):
    maxDiff = None

    def test_each_has_a_writer_a_reader_and_a_test(self):
        missing = []
        for name, writer, reader, test in all_words():
            if name in RESERVED:
                continue
            lacks = [what for what, there in (("writer", writer), ("reader", reader), ("test", test)) if not there]
            if lacks:
                missing.append(f"{name} has no {', no '.join(lacks)}")
        self.assertEqual(missing, [])

    def test_what_is_reserved_is_still_missing_something(self):
        known = {name: all(found) for name, *found in all_words()}
        for name, purpose in RESERVED.items():
            self.assertIn(name, known, "reserved, and not in the contract any more")
            self.assertFalse(known[name], f"{name} is in use: it is reserved no longer ({purpose})")

    def test_the_look_up_bites(self):
        names = [name for name, *_ in all_words()]
        self.assertEqual(len(names), len(set(names)))
        self.assertGreater(len(names), 100)
        self.assertFalse(has(PROBE, r"\bkFlagThatIsNone\b"))
        # A word that stands in a comment alone is in no use.
        self.assertNotIn("//", DAEMON.split('"')[0])


if __name__ == "__main__":
    unittest.main()
