"""The contract in prose and the contract in code are one: every structure of shared/layout.h stands in shared/layout.md
with the same fields, types and places, and every table of codes with the same numbers. In the standard library of
Python, which computes the places by the rules of C itself."""

import os
import pathlib
import re
import unittest

ROOT = pathlib.Path(os.environ.get("IKKUNA_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
HEADER = (ROOT / "shared/layout.h").read_text(encoding="utf-8")
CODES = (ROOT / "shared/codes.h").read_text(encoding="utf-8")
TLV = (ROOT / "shared/tlv.h").read_text(encoding="utf-8")
PROSE = (ROOT / "shared/layout.md").read_text(encoding="utf-8")

TYPES = {"uint8_t": ("u8", 1), "uint16_t": ("u16", 2), "uint32_t": ("u32", 4), "uint64_t": ("u64", 8),
         "int64_t": ("i64", 8), "double": ("f64", 8), "char": ("u8", 1), "unsigned char": ("u8", 1)}


def constants():
    """Whole numbers of the headers, by name."""
    found = {}
    for name, text in re.findall(r"constexpr \w+ (k\w+) = ([^;]+);", CODES + HEADER):
        text = re.sub(r"\b(k\w+)\b", lambda m: str(found.get(m[1], m[1])), text.replace("ull", "").replace("1u", "1"))
        try:
            found[name] = int(eval(text.replace("/", "//"), {"__builtins__": {}}))
        except (NameError, SyntaxError, TypeError):
            pass
    return found


CONSTANTS = constants()


def structures():
    """name -> (fields [(offset, type, name)], bytes, alignment), as a compiler lays them out; of a union its place."""
    found = {}
    for align, name, body in re.findall(r"^struct (alignas\(kCacheLine\) )?(\w+) \{\n(.*?)^\};", HEADER, re.M | re.S):
        body = re.sub(r"//[^\n]*", "", body)
        body = re.sub(r"  union \{.*?\n  \};", "  uint64_t union_[kUnionBytes / 8];", body, flags=re.S)
        fields, at, alignment = [], 0, 64 if align else 1
        for line in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(r"(alignas\(kCacheLine\) )?((?:unsigned )?\w+) (\w+)(?:\[([^\]]+)\])?", line)
            if match is None:
                raise AssertionError(f"a field of {name} that this test cannot read: {line}")
            kind, size = TYPES.get(match[2], (match[2], None))
            own = size
            if size is None:
                _, size, own = found[match[2]]
            own = 64 if match[1] else own
            count = 1
            if match[4]:
                count = int(eval(match[4].replace("/", "//"), {"__builtins__": {}}, CONSTANTS))
            at = (at + own - 1) // own * own
            fields.append((at, kind + (f"[{count}]" if match[4] else ""), match[3]))
            at += size * count
            alignment = max(alignment, own)
        found[name] = fields, (at + alignment - 1) // alignment * alignment, alignment
    return found


STRUCTURES = structures()


def section(number):
    return re.search(rf"^## {number}\. .*?(?=^## |\Z)", PROSE, re.M | re.S)[0]


def table(text):
    """Rows `| offset | type | field |` of the first table with these columns."""
    rows = []
    within = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells[:3] == ["offset", "type", "field"]:
            within = True
        elif within and not cells:
            break
        elif within and re.fullmatch(r"\d+", cells[0]):
            rows.append((int(cells[0]), cells[1], cells[2]))
    return rows


def inline(text):
    """Fields that stand in running text: `0 u64 magic, 8 u16 abi_major`."""
    code = ", ".join(re.findall(r"`([^`]*)`", text.replace("\n", " ")))
    found = re.findall(r"\b(\d+) ((?:u8|u16|u32|u64|i64|f64)(?:\[\d+\])?) (\w+)", code)
    return [(int(offset), kind, name) for offset, kind, name in found]


def between(text, begin, end):
    start = text.index(begin)
    return text[start:text.index(end, start + len(begin))]


def without(fields, *names):
    return [field for field in fields if field[2] not in names and not field[2].startswith("reserved")]


def snake(enumerator):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enumerator).lower()


def enum(source, name, prefix="k"):
    """enumerator in snake case -> value, 0 left out where it is the invalid one."""
    body = re.sub(r"//[^\n]*", "", re.search(rf"enum (?:class )?{name}\b[^{{]*\{{(.*?)\}};", source, re.S)[1])
    found = {}
    for enumerator, value in re.findall(rf"{prefix}(\w+) = ([^,\n]+)", body):
        value = int(eval(value, {"__builtins__": {}}))
        if enumerator != "Invalid":
            found[snake(enumerator)] = value
    return found


def listed(text):
    """'1 tensor, 2 host arena: ...' as {1: 'tensor', 2: 'host_arena'}."""
    return {name.strip().replace(" ", "_").replace("-", "_"): int(code)
            for code, name in re.findall(r"\b(\d+) ([a-z][a-z_\- ]*[a-z0-9]*)", text)}


class Structures(unittest.TestCase):
    maxDiff = None

    def compare(self, name, in_prose, *left_out):
        fields, size, _ = STRUCTURES[name]
        self.assertEqual(without(fields, *left_out), without(in_prose), name)
        return size

    def test_header_of_pub(self):
        self.assertEqual(self.compare("PubHeader", table(section(3))), 160)
        self.assertIn("## 3. PUB header (160 bytes", PROSE)

    def test_status(self):
        rows = [(at, "RootStatus[16]" if kind == "64 bytes x 16" else kind, name)
                for at, kind, name in table(section(4))]
        # `reserved` is the tail of the ring here, and no gap.
        fields, size, _ = STRUCTURES["PubStatus"]
        self.assertEqual(fields, rows)
        self.assertEqual(size, 1408)
        self.assertIn("## 4. Status (1408 bytes", PROSE)

    def test_root_status(self):
        self.assertEqual(self.compare("RootStatus", inline(between(section(4), "A root:", "\n\n"))), 64)

    def test_entry(self):
        self.assertEqual(self.compare("EntryHeader", [row for row in table(section(5)) if row[2]]), 40)

    def test_record(self):
        rows = [row for row in table(section(6)) if row[2]]
        self.assertEqual(self.compare("Record", rows, "union_"), 256)

    def test_union(self):
        ring = section(6)
        self.compare("PayloadRef", inline(between(ring, "- *tensor*", "`bytes` is the product")))
        self.compare("PayloadRef", inline(between(ring, "- *void*", "- *tensor*")))
        self.compare("MarkerInfo", inline(between(ring, "- *marker*", "\n\n")))
        self.compare("InlineText", inline(between(ring, "*text*", "- *marker*")))

    def test_late_span(self):
        prose = inline(between(section(7), "A span begins", "The probe stores"))
        self.assertEqual(self.compare("LateSpanHeader", prose), 64)

    def test_ctl(self):
        ctl = section(8)
        self.assertEqual(self.compare("CtlHeader", inline(between(ctl, "Header (80 bytes)", "The probe checks"))), 80)
        self.assertEqual(self.compare("CtlState", table(ctl)), 512)
        self.assertIn("State (512 bytes)", ctl)
        self.assertEqual(self.compare("DemandEntry", inline(between(ctl, "**Demand.**", "The bitset"))), 32)
        self.assertEqual(self.compare("Command", inline(between(ctl, "**Commands.**", "The probe takes"))), 64)

    def test_none_is_left_out(self):
        shown = {"PubHeader", "PubStatus", "RootStatus", "EntryHeader", "Record", "PayloadRef", "LateSpanHeader",
                 "MarkerInfo",
                 "InlineText", "CtlHeader", "CtlState", "DemandEntry", "Command"}
        self.assertEqual(set(STRUCTURES), shown, "a structure that no test above compares")


class Codes(unittest.TestCase):
    maxDiff = None
    prose = section(2)

    def paragraph(self, title):
        return between(self.prose + "\n\n", f"**{title}**", "\n\n")

    def test_kinds(self):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in self.prose.splitlines()
                if line.startswith("|") and "---" not in line]
        tables = dict(zip(rows[1] + rows[3], map(int, rows[0] + rows[2])))
        self.assertEqual(enum(CODES, "Kind"), tables)

    def test_lists(self):
        record_type = between(self.prose, "**Record type**", "**Space**")
        self.assertEqual(enum(CODES, "RecordType"), listed(re.sub(r": exactly[^;]*;", ",", record_type)))
        self.assertEqual(enum(CODES, "Space"), listed(between(self.prose, "**Space**", "\n")))
        self.assertEqual(enum(CODES, "Layout"), {"row_major": 1})
        self.assertIn("1 row-major", self.prose)
        self.assertEqual(enum(CODES, "Level"), listed(between(self.prose, "**Level**", "\n")))
        self.assertEqual(enum(CODES, "DropReason"), listed(self.paragraph("Drop reason")))
        self.assertEqual(enum(HEADER, "ProducerState"),
                         listed(between(self.prose, "**Producer state**", "**Phase**")))
        self.assertEqual(enum(HEADER, "Phase"), listed(between(self.prose, "**Phase**", "\n")))
        self.assertEqual(enum(HEADER, "CommandType"), listed(re.search(r"\(1 freeze[^)]*\)", section(8))[0]))

    def test_data_types(self):
        short = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8",
                 "int16": "i16", "int32": "i32", "int64": "i64", "bool": "bool"}
        in_prose = {short[name]: int(code)
                    for code, name in re.findall(r"(\d+) (b?float\d+|u?int\d+|bool)", self.paragraph("Data type"))}
        self.assertEqual({name.replace("_", ""): value for name, value in enum(CODES, "DType").items()}, in_prose)

    def test_bits(self):
        features = {name: 1 << bit for name, bit in listed(self.paragraph("Feature bits")).items()}
        self.assertEqual(enum(HEADER, "FeatureBit", "kFeature"), features)
        flags = re.findall(r"(?:^|[:;]) ?(\d+) ", self.paragraph("Record flags").split(":", 1)[1].replace("\n", " "))
        self.assertEqual([value.bit_length() - 1 for value in enum(CODES, "RecordFlag", "kFlag").values()],
                         [int(bit) for bit in flags])

    def test_entry_types(self):
        rows = re.findall(r"^\| (\d+) \| ([a-z]+ ?[a-z]*)", section(5), re.M)
        code_of = {"root": "root", "module": "module", "parameter or": "param", "tag": "tag", "name of": "name",
                   "fact of": "fact", "note": "note", "arena extent": "arena_extent", "device pool": "device_pool",
                   "device event": "device_event", "shard": "shard"}
        in_prose = {code_of[what.strip()]: int(code) for code, what in rows if what.strip() in code_of}
        self.assertEqual(enum(HEADER, "EntryType"), in_prose)

    def test_tags_of_the_meeting(self):
        rows = re.findall(r"^\| (\d+) \| ([a-z_ ]+)", section(9), re.M)
        tags = {value: name for name, value in enum(TLV, "Tag").items()}
        self.assertEqual(sorted(tags), [int(code) for code, _ in rows])
        for code, what in rows:
            self.assertEqual(tags[int(code)].split("_")[0], re.split(r"[ _]", what.strip())[0], what)

    def test_limits(self):
        limits = " ".join(between(self.prose, "**Limits**", "\n\n").split())
        for name, text in {"kMaxProducers": "{} producers", "kMaxRoots": "roots {}", "kMaxModules": "module ids below {}",
                           "kMaxParams": "parameter ids up to {}", "kMaxTags": "tags below {}",
                           "kMaxNameBytes": "names of {} bytes", "kMaxDims": "{} dimensions",
                           "kMaxDemandEntries": "{} demand entries", "kCommandSlots": "{} waiting commands",
                           "kMaxRingSlots": "a power of two up to {}"}.items():
            self.assertIn(text.format(f"{CONSTANTS[name]:,}"), limits, name)


if __name__ == "__main__":
    unittest.main()
