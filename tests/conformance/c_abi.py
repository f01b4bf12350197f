"""What programs in C were compiled against stays: functions that the libraries give, sizes and places of the structures of
ikkuna/probe.h, numbers of its constants, against a checked-in list.

A function or a field may be added (IKKUNA_REWRITE_GOLDEN=1 writes the list anew); what changes or goes raises IKKUNA_VERSION.
"""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(os.environ.get("IKKUNA_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("IKKUNA_BUILD_DIR", ROOT / "build/release"))
HEADER = (ROOT / "probe/ikkuna/probe.h").read_text(encoding="utf-8")
GOLDEN = ROOT / "tests/conformance/golden/c_abi.txt"


def without_comments():
    return re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)


def fields_of_structures():
    """(structure, field), in their order."""
    for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", without_comments(), re.S):
        for line in filter(None, (part.strip() for part in body.split(";"))):
            if function := re.search(r"\(\*(\w+)\)\(", line):
                yield name, function[1]
                continue
            for field in line.split(","):
                yield name, re.search(r"(\w+)$", field.strip())[1]


def constants():
    code = without_comments()
    names = re.findall(r"#define (IKKUNA_VERSION)\b", code)
    for body in re.findall(r"enum \{(.*?)\}", code, re.S):
        names += re.findall(r"(IKKUNA_\w+) =", body)
    return names


def declared():
    return sorted(re.findall(r"^IKKUNA_API [^;(]*?(\w+)\(", without_comments(), re.M))


def interface():
    fields = list(fields_of_structures())
    lines = [f'printf("size of {name}: %zu\\n", sizeof({name}));' for name in dict.fromkeys(name for name, _ in fields)]
    lines += [f'printf("{name}.{field}: at %zu, %zu bytes\\n", offsetof({name}, {field}), sizeof((({name}*)0)->{field}));'
              for name, field in fields]
    lines += [f'printf("{name}: %d\\n", (int){name});' for name in constants()]
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "abi.c"
        source.write_text("#include <ikkuna/probe.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\n}\n")
        program = pathlib.Path(folder) / "abi"
        subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "probe", source, "-o", program], check=True)
        printed = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout
    return printed + "".join(f"function {name}\n" for name in declared())


def example():
    """The one that the header begins with, as a program."""
    lines = re.findall(r"^ \*   (.*)$", HEADER[: HEADER.index("*/")], re.M)
    return "#include <ikkuna/probe.h>\nstatic float data[7840];\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"


class CAbiTest(unittest.TestCase):
    maxDiff = None

    def test_the_example_compiles(self):
        self.assertIn("ikkuna_close(s);", example())
        subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", ROOT / "probe", "-x", "c", "-"],
                       input=example(), check=True, text=True)

    def test_the_interface_is_what_programs_were_compiled_against(self):
        now = interface()
        if os.environ.get("IKKUNA_REWRITE_GOLDEN"):
            GOLDEN.write_text(now)
        self.assertEqual(now, GOLDEN.read_text())
        self.assertIn("ikkuna_array.strides: at ", now)  # the parser sees what is there
        self.assertIn("ikkuna_options.on_command: at ", now)
        self.assertIn("IKKUNA_WEIGHTS: 16", now)
        self.assertGreaterEqual(len(declared()), 50)

    def test_the_libraries_give_what_the_header_declares_and_nothing_else_of_it(self):
        libraries = [path for name in ("libikkuna_probe_c.so", "libikkuna_probe.so") for path in BUILD.glob(f"lib/{name}")]
        self.assertTrue(libraries, f"no library in {BUILD}/lib")
        for library in libraries:
            listed = subprocess.run(["nm", "-D", "--defined-only", library], check=True, stdout=subprocess.PIPE, text=True).stdout
            given = sorted({line.split()[-1] for line in listed.splitlines() if line.split()[-1].startswith("ikkuna_")})
            self.assertEqual(given, declared(), library)


if __name__ == "__main__":
    unittest.main()
