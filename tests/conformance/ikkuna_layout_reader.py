"""A second reader of PUB, written from shared/layout.md alone, in the standard library of Python.

Run as a test it decodes the golden segment and compares it with what the golden JSON says is in it, then breaks the
segment in many ways and expects each to be refused. With a file as argument it prints what is in that file:

    ikkuna_layout_reader.py /proc/<pid>/fd/<number of the memfd 'ikkuna-pub'>
"""

import json
import math
import os
import struct
import sys
import unittest

KINDS = {
    1: "batch_started", 2: "batch_finished", 3: "epoch_started", 4: "epoch_finished", 5: "input_data",
    6: "input_labels", 7: "network_output", 8: "loss", 9: "learning_rate", 10: "scalar", 11: "text",
    12: "pass_started", 13: "passes_named",
    16: "weights", 17: "biases", 18: "weight_gradients", 19: "bias_gradients", 20: "weight_updates",
    21: "bias_updates", 22: "activations", 23: "layer_gradients", 24: "raw_weight_gradients", 25: "exp_avg",
    26: "exp_avg_sq", 27: "buffers",
}
TENSOR, SUMMARY, SCALAR, TEXT, MARKER, VOID = 1, 2, 3, 4, 5, 6
BATCH_FINISHED, PASS_STARTED, PASSES_NAMED = 2, 12, 13  # kinds
MARKERS = {1, 2, 3, 4, 12, 13}  # kinds
INLINE, HOST_ARENA, DEVICE_POOL, HOST_LATE = 1, 2, 3, 4
ELEMENT_BYTES = {1: 4, 2: 8, 3: 2, 4: 2, 5: 1, 6: 1, 7: 2, 8: 4, 9: 8, 10: 1}
DROP_REASONS = ["ring_full", "arena_full", "pool_full", "oversize", "contended", "reentrant", "failed", "unnamed"]
POOL, EVENT, EXTENT, SHARD = 9, 10, 8, 11
MAX_ID = {1: 16, 2: 65535, 3: 262144, 4: 255, 5: 262144, 6: 262144, 7: 262144, 8: 262144, 9: 16, 10: 262144,
          11: 262144}
UNNUMBERED = {6, 7, 8}


class Corrupt(Exception):
    """The segment breaks the format."""


def check(condition, what):
    if not condition:
        raise Corrupt(what)


class Pub:
    """One snapshot of a segment: bytes that nobody changes any more."""

    def __init__(self, data):
        self.data = data
        self.extent = 0
        check(len(data) >= 144, "shorter than a header")
        (self.magic, self.abi_major, self.abi_minor, self.header_bytes, self.total_bytes, self.feature_bits,
         self.uuid, self.start_monotonic_ns, self.start_unix_ns, self.pid, self.record_bytes, self.stats_bytes,
         self.ring_slots, self.status_offset, self.status_bytes, self.registry_offset, self.registry_bytes,
         self.ring_offset, self.arena_offset, self.arena_bytes, ready) = struct.unpack_from(
             "<8sHHIQQ16sQqIIIIQQQQQQQI", data)
        check(self.magic == b"IKKNPUP1", "magic")
        check(self.abi_major == 2, "major version")
        check(ready == 1, "not ready")
        check(144 <= self.header_bytes <= 4096, "header size")
        check(self.total_bytes <= len(data), "total size")
        check(256 <= self.record_bytes <= 4096 and self.record_bytes % 64 == 0, "record size")
        check(128 <= self.stats_bytes <= self.record_bytes - 128, "statistics size")
        check(0 < self.ring_slots <= 4194304 and self.ring_slots & (self.ring_slots - 1) == 0, "slots")
        check(1408 <= self.status_bytes <= 1 << 20, "status size")
        check(self.registry_bytes <= 256 << 20, "registry size")
        check(self.arena_bytes <= 64 << 30, "arena size")
        self.late_offset = self.late_bytes = 0  # minor 2
        if self.header_bytes >= 160:
            check(len(data) >= 160, "shorter than its header")
            self.late_offset, self.late_bytes = struct.unpack_from("<QQ", data, 144)
        check(self.late_bytes <= 1 << 30 and self.late_bytes % 4096 == 0, "size of late bytes")
        end = 0
        for offset, size in sorted([(0, self.header_bytes), (self.status_offset, self.status_bytes),
                                    (self.registry_offset, self.registry_bytes),
                                    (self.ring_offset, self.ring_slots * self.record_bytes),
                                    (self.arena_offset, self.arena_bytes),
                                    (self.late_offset, self.late_bytes)]):
            check(offset % 64 == 0 and offset >= end and offset + size <= self.total_bytes, "regions")
            end = offset + size

    def word(self, offset, form="Q"):
        return struct.unpack_from("<" + form, self.data, self.status_offset + offset)[0]

    def status(self):
        dropped = struct.unpack_from("<8Q", self.data, self.status_offset + 256)
        phase, epoch, step, samples_seen, _, steps_due = struct.unpack_from("<IIQQQQ", self.data,
                                                                           self.status_offset + 384)
        generation, monotonic, unix = struct.unpack_from("<QQq", self.data, self.status_offset)
        return {
            "clock": [monotonic, unix] if generation % 2 == 0 else None,
            "state": self.word(24, "I"),
            "attempt": self.word(28, "I"),
            "commands": [self.word(32), self.word(40)],
            "steps_unwatched": self.word(48),
            "reserved": self.word(128),
            "arena_tail": self.word(136),
            "late_tail": self.word(144),
            "attempted": self.word(192),
            "dropped": {name: count for name, count in zip(DROP_REASONS, dropped) if count},
            "root_1": {"phase": phase, "epoch": epoch, "step": step, "samples_seen": samples_seen,
                       "steps_due": steps_due},
        }

    def registry(self):
        count, used = self.word(64), self.word(72)
        check(count <= 1310720 and used <= self.registry_bytes, "registry counts")
        entries = []
        at = 0
        for _ in range(count):
            entry, size = self.entry(at, used)
            at += size
            if entry is not None:
                entries.append(entry)
        return entries

    def entry(self, at, used):
        check(used - at >= 40, "no room for an entry's header")
        start = self.registry_offset + at
        (size, kind, root, number, parent, value, flags, dtype, ndim, name_bytes,
         second_bytes) = struct.unpack_from("<IHHIIQIBBHH", self.data, start)
        check(size % 8 == 0 and 40 <= size <= used - at, "entry length")
        check(kind != 0, "entry type")
        if kind not in MAX_ID:
            return None, size
        check(ndim <= 8 and name_bytes <= 255 and second_bytes <= 4096, "entry lengths")
        content = 40 + 8 * ndim + name_bytes + second_bytes
        check(content <= size < content + 8, "entry padding")
        check(root <= 16 and number <= MAX_ID[kind] and (number > 0 or kind in UNNUMBERED), "entry ids")
        check(dtype == 0 or dtype in ELEMENT_BYTES, "entry data type")
        sizes = list(struct.unpack_from("<%dq" % ndim, self.data, start + 40))
        check(all(s >= 0 for s in sizes), "entry sizes")
        text = start + 40 + 8 * ndim
        offsets = []
        if kind == SHARD:
            check(second_bytes == 8 * ndim, "number of offsets")
            offsets = list(struct.unpack_from("<%dq" % ndim, self.data, text + name_bytes))
            check(all(0 <= offset <= s for offset, s in zip(offsets, sizes)), "offsets")
            second_bytes = 0
        try:
            name = self.data[text:text + name_bytes].decode("utf-8")
            second = self.data[text + name_bytes:text + name_bytes + second_bytes]
            second = second.decode("latin-1" if kind in (POOL, EVENT) else "utf-8")
        except UnicodeDecodeError as error:
            raise Corrupt("entry text") from error
        if kind == EXTENT:
            check(self.extent == 0 and 0 < value <= self.arena_bytes and value % 4096 == 0, "extent")
            self.extent = value
        return {"type": kind, "root": root, "id": number, "parent": parent, "value": value, "flags": flags,
                "dtype": dtype, "sizes": sizes, "offsets": offsets, "name": name, "second": second}, size

    def records(self, ring_head, arena_head, late_head=0):
        """All committed records from the heads on, and how many behind them are reserved and not committed."""
        reserved, arena_tail = self.word(128), self.word(136)
        check(ring_head <= reserved <= ring_head + self.ring_slots and arena_head <= arena_tail, "heads")
        check(late_head <= self.word(144), "heads")
        position, self.arena_position, self.late_position, found = ring_head, arena_head, late_head, []
        while True:
            start = self.ring_offset + position % self.ring_slots * self.record_bytes
            if struct.unpack_from("<Q", self.data, start)[0] != position + 1:
                return found, reserved - position
            check(position < reserved, "committed, never reserved")
            found.append(self.record(start, arena_tail))
            position += 1

    def record(self, start, arena_tail):
        (seq, time_ns, global_step, dropped_total, module, param, epoch, train_step, pass_, call, root, tag, kind_of,
         kind, dtype, ndim, space, layout, flags) = struct.unpack_from("<QQQQIIIIIHBBBBBBBBH", self.data, start)
        if kind_of == VOID:
            result = {"seq": seq, "dropped_total": dropped_total, "type": kind_of, "space": space}
            size = struct.unpack_from("<Q", self.data, start + 136)[0]
            check(space in ((HOST_ARENA, HOST_LATE) if size else (INLINE,)), "space of a void")
            check(kind == dtype == ndim == layout == flags == module == 0, "fields of a void")
            result.update(position=0, bytes=0)
            if space == HOST_LATE:
                self.late(result, start + 128, size)
                del result["ready"]
            elif size:
                self.payload(result, start + 128, size, arena_tail)
            return result
        sizes = struct.unpack_from("<8q", self.data, start + 64)
        check(kind_of in (TENSOR, SUMMARY, SCALAR, TEXT, MARKER) and kind in KINDS, "type or kind")
        check(global_step < 1 << 63, "step")
        check(flags < 1 << 7 and root <= 16 and module < 65536 and param <= 262144, "flags or ids")
        check((module != 0) == (kind >= 16), "module")
        check((kind_of == MARKER) == (kind in MARKERS), "marker")
        check(kind_of != MARKER or (pass_ != 0) == (kind == PASS_STARTED), "pass of a marker")
        check(ndim <= 8 and all(s == 0 for s in sizes[ndim:]) and all(s >= 0 for s in sizes), "sizes")
        shaped = kind_of in (TENSOR, SUMMARY)
        check(dtype in ELEMENT_BYTES and layout == 1 if shaped else dtype == layout == ndim == 0, "shape")
        elements = math.prod(sizes[:ndim])
        check(elements < 1 << 64, "elements")
        result = {"seq": seq, "time_ns": time_ns, "global_step": global_step, "dropped_total": dropped_total,
                  "module": module, "param": param, "epoch": epoch, "train_step": train_step, "pass": pass_,
                  "call": call, "root": root, "tag": tag, "type": kind_of, "kind": KINDS[kind], "dtype": dtype,
                  "sizes": list(sizes[:ndim]), "space": space, "layout": layout, "flags": flags}
        if space == HOST_LATE:
            check(kind_of in (TENSOR, SUMMARY, SCALAR), "what comes late")
            size = {TENSOR: elements * ELEMENT_BYTES.get(dtype, 0), SUMMARY: 128, SCALAR: 8}[kind_of]
            check(size > 0, "late bytes that are none")
            at = self.late(result, start + 128, size)
            if result["ready"]:
                self.values(result, at, kind_of, elements, size)
            return result
        if kind_of == TENSOR:
            self.payload(result, start + 128, elements * ELEMENT_BYTES[dtype], arena_tail)
            return result
        check(space == INLINE, "space")
        if kind_of in (SUMMARY, SCALAR):
            self.values(result, start + 128, kind_of, elements, 128)
        elif kind_of == MARKER:
            self.marker(result, start + 128, kind)
        elif kind_of == TEXT:
            length = struct.unpack_from("<I", self.data, start + 128)[0]
            check(length <= 124, "text length")
            result["text"] = self.data[start + 132:start + 132 + length].decode("utf-8", "replace")
        return result

    def values(self, result, at, kind_of, elements, size):
        """Numbers of a record, wherever they stand."""
        if kind_of == SUMMARY:
            stats = struct.unpack_from("<QQ9dQQQQQ", self.data, at)
            check(stats[0] == elements and math.isfinite(stats[2]), "statistics")
            check(stats[1] + stats[12] + stats[13] + stats[14] == stats[0] and stats[11] <= stats[1], "counts")
            absent = [0.0] * 6 + [math.inf, -math.inf]
            places = ((1, 3), (2, 4), (4, 5), (8, 6), (16, 7), (32, 8), (64, 9), (64, 10))
            left_out = stats[15]
            check(left_out < 128 and all(stats[place] == absent[place - 3] for bit, place in places if left_out & bit),
                  "what is left out")
            check((left_out & 15) in (0, 8, 12, 14, 15), "powers without those below them")
            result["stats"] = [number(value) for value in stats]
        elif kind_of == SCALAR:
            result["scalar"] = number(struct.unpack_from("<d", self.data, at)[0])
        elif result.get("dtype") == 1:
            result["values"] = [number(value) for value in struct.unpack_from("<%df" % (size // 4), self.data, at)]

    def marker(self, result, start, kind):
        samples, dropped_kinds, first, lowest_open, passes, _ = struct.unpack_from("<QQIIII", self.data, start)
        check(samples < 1 << 63, "samples")
        if kind == BATCH_FINISHED:
            result["samples"], result["dropped_kinds"] = samples, dropped_kinds
        if kind not in (BATCH_FINISHED, PASSES_NAMED):
            return
        words = struct.unpack_from("<12Q", self.data, start + 32)
        named = [(first + i) % (1 << 32) for i in range(768) if words[i // 64] >> i % 64 & 1]
        check((first != 0) == bool(named) and named[:1] in ([], [first]) and 0 not in named, "names of passes")
        check(passes >= len(named), "number of passes")
        result["named"], result["lowest_open"], result["passes"] = named, lowest_open, passes

    def payload(self, result, start, expected_bytes, arena_tail):
        position, size, event, device = struct.unpack_from("<QQII", self.data, start)
        check(size == expected_bytes < 1 << 64, "payload size")
        result["position"], result["bytes"] = position, size
        if result["space"] == DEVICE_POOL:
            check(1 <= device <= 16, "pool")
            result["event"], result["device"] = event, device
            return
        check(result["space"] == HOST_ARENA and event == device == 0, "space of a payload")
        if size == 0:
            result["values"] = []
            return
        rounded = (size + 63) // 64 * 64
        check(self.extent > 0 and position % 64 == 0, "payload position")
        offset = position % self.extent
        check(offset + rounded <= self.extent, "payload leaves its arena")
        check(self.arena_position <= position and position + rounded <= arena_tail, "payload is not reserved")
        self.arena_position = position + rounded
        if result["type"] == TENSOR:
            self.values(result, self.arena_offset + offset, TENSOR, None, size)

    def late(self, result, start, expected_bytes):
        """Where late bytes are to stand, and whether they do."""
        position, size, event, device = struct.unpack_from("<QQII", self.data, start)
        check(size == expected_bytes and event == device == 0, "place of late bytes")
        check(self.late_bytes > 0 and size <= self.late_bytes - 64, "size of late bytes")
        span = 64 + (size + 63) // 64 * 64
        offset = position % self.late_bytes
        check(position % 64 == 0 and offset + span <= self.late_bytes, "late bytes leave their ring")
        check(self.late_position <= position and position + span <= self.word(144), "late bytes are not reserved")
        self.late_position = position + span
        word = struct.unpack_from("<Q", self.data, self.late_offset + offset)[0]
        check(word in (0, result["seq"]), "readiness")
        result["position"], result["bytes"], result["ready"] = position, size, word != 0
        return self.late_offset + offset + 64


def number(value):
    """As JSON writes it: NaN and infinities are words."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "pub_v2")


class GoldenSegment(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        with open(GOLDEN + ".bin", "rb") as file:
            self.data = file.read()
        with open(GOLDEN + ".json", encoding="utf-8") as file:
            self.expected = json.load(file)

    def decode(self, data):
        pub = Pub(data)
        registry = pub.registry()
        return pub, registry, *pub.records(**self.expected["read_from"])

    def test_header(self):
        pub = Pub(self.data)
        self.assertEqual(self.expected["header"], {
            "abi": [pub.abi_major, pub.abi_minor], "uuid": pub.uuid.hex(), "feature_bits": pub.feature_bits,
            "start_monotonic_ns": pub.start_monotonic_ns, "start_unix_ns": pub.start_unix_ns, "pid": pub.pid,
            "ring_slots": pub.ring_slots, "registry_bytes": pub.registry_bytes, "arena_bytes": pub.arena_bytes,
            "late_bytes": pub.late_bytes})

    def test_status(self):
        self.assertEqual(self.expected["status"], Pub(self.data).status())

    def test_registry(self):
        self.assertEqual(self.expected["registry"], Pub(self.data).registry())

    def test_records(self):
        _, _, records, uncommitted = self.decode(self.data)
        self.assertEqual(self.expected["records"], records)
        self.assertEqual(self.expected["uncommitted"], uncommitted)

    def test_every_truncation_is_refused(self):
        for size in range(0, len(self.data), 509):
            with self.assertRaises(Corrupt, msg=size):
                self.decode(self.data[:size])

    def test_lies_are_refused(self):
        pub = Pub(self.data)
        record, ended = pub.ring_offset, pub.ring_offset + 10 * 256  # positions 16: a tensor, 10: a step's end
        late = pub.ring_offset + 21 % 16 * 256  # a tensor that is not ready
        lies = {"magic": (0, b"X"), "major": (8, b"\1"), "slots": (76, b"\7"), "ready": (136, b"\0"),
                "type": (record + 56, b"\7"), "kind": (record + 57, b"\16"), "space": (record + 60, b"\5"),
                "late, and not there": (record + 60, b"\4"), "late position": (late + 128, b"\1"),
                "late bytes": (late + 136, b"\1"), "late device": (late + 148, b"\1"),
                "readiness": (pub.late_offset, b"\x63"), "late text": (late + 56, b"\4"),
                "size": (record + 64, b"\3"), "negative size": (record + 71, b"\x80"), "flags": (record + 63, b"\1"),
                "pass of a marker": (ended + 48, b"\1"), "scalar marker": (ended + 56, b"\3"),
                "first of none": (ended + 144, b"\0"), "first not named": (ended + 160, b"\2"),
                "names without a first": (ended + 144, b"\0\0\0\0"), "too few": (ended + 152, b"\2"),
                "pass 0 named": (ended + 144, b"\xff\xff\xff\xff"),
                "position": (record + 128, b"\1"), "bytes": (record + 136, b"\1"), "tail": (pub.status_offset + 128, b"\1"),
                "entry length": (pub.registry_offset, b"\1"), "entry type": (pub.registry_offset + 4, b"\0"),
                "extent": (pub.registry_offset + 16, b"\1")}
        for what, (offset, lie) in lies.items():
            data = bytearray(self.data)
            data[offset:offset + len(lie)] = lie
            with self.assertRaises(Corrupt, msg=what):
                self.decode(bytes(data))


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        with open(sys.argv[1], "rb") as segment:
            snapshot = Pub(segment.read())
        tail = snapshot.word(128)
        print(json.dumps({"registry": snapshot.registry(), "status": snapshot.status(), "tail": tail}, indent=1))
    else:
        unittest.main()
