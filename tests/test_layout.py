"""The house rules that a machine can check: who may include or import whom, one vocabulary, the header's
independence, the same flags everywhere, sizes. Reads the checkout, not the installed package."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "fastlstm"
CSRC = PACKAGE / "csrc"
KERNELS = CSRC / "kernels"
PUBLIC_HEADER = ROOT / "include" / "fastlstm.h"

C_SOURCES = sorted([PUBLIC_HEADER, *CSRC.rglob("*.[ch]")])
PYTHON_MODULES = sorted(PACKAGE.rglob("*.py"))

# Headers of the C library and of compilers; anything else in <> is a dependency.
SYSTEM_HEADERS = set(
    """assert errno float limits math signal stdarg stdatomic stdbool stddef stdint stdlib string
    immintrin xmmintrin emmintrin arm_neon intrin cpuid""".split()
)
ONLY_THREADS = {"omp", "pthread", "sched", "unistd"}  # csrc/threads.c
# The engine computes on the caller's memory: it neither allocates, prints, nor reads the environment.
FORBIDDEN_CALLS = r"\b(malloc|calloc|realloc|free|printf|fprintf|puts|perror|getenv|setenv|exit|abort|rand|time)\s*\("

# From the bottom up: a module imports only from rungs below its own; None stands for every module not named.
# Those, and the programs on the last rung, may know one another. Programs use what users use.
PROGRAMS = {"__main__", "_demo", "experiments", "sklearn", "river"}
RUNGS = [{"_checks"}, {"_core"}, {"_stream"}, {"_layer"}, {"_layers"}, None, {"__init__"}, PROGRAMS]
PEERS = {RUNGS.index(None), len(RUNGS) - 1}
OPTIONAL = {"torch", "onnx", "onnxruntime", "keras", "tensorflow", "sklearn", "river", "matplotlib", "tqdm", "scipy",
            "pandas", "safetensors", "h5py", "joblib", "hmmlearn"}  # fmt: skip

BUDGET = {"_core.pyx": 700, "_core_train.pxi": 250, "_core_tape.pxi": 120, "api.c": 950, "fastlstm.h": 400}
BUDGET_OTHERS = 800


def includes(path):
    """(name, is_system) of every #include of a C file."""
    found = re.findall(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', path.read_text(), re.M)
    return [(name, bracket == "<") for bracket, name in found]


def without_comments(text):
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"', " ", text, flags=re.S)


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", C_SOURCES, ids=relative)
def test_c_includes(path):
    own = {header.name: header for header in C_SOURCES if header.suffix == ".h"}
    for name, is_system in includes(path):
        assert "Python.h" not in name and "numpy" not in name, f"C knows nothing of Python: {name}"
        if is_system:
            stem = name.removesuffix(".h")
            allowed = SYSTEM_HEADERS | (ONLY_THREADS if path.name == "threads.c" else set())
            assert stem in allowed, f"<{name}> is a dependency"
            continue
        target = own.get(Path(name).name)
        assert target is not None, f"{name} is no header of the engine"
        if path == PUBLIC_HEADER:
            pytest.fail(f"the public header includes {name}")
        if path.name == "cpu.c":
            assert target.name == "cpu.h", "detection knows no engine"
        if path.name == "cpu.h":
            pytest.fail(f"cpu.h includes {name}")
        if path.parent == KERNELS:
            assert target.name not in ("cpu.h", "threads.h"), "a kernel knows neither the machine nor threads"
        if target.name.startswith("simd_"):
            assert path.parent == KERNELS, "the vocabulary is for kernels"


@pytest.mark.parametrize("path", C_SOURCES, ids=relative)
def test_c_keeps_its_hands_off(path):
    found = re.findall(FORBIDDEN_CALLS, without_comments(path.read_text()))
    assert not found, f"{found}: the caller owns memory, messages and environment"
    if path.name not in ("threads.c", "threads.h"):
        openmp = re.search(r"#\s*pragma\s+omp|\bomp_\w+\s*\(", path.read_text())
        assert not openmp, "OpenMP is reached through threads.c"


@pytest.mark.parametrize("path", [p for p in C_SOURCES if p.suffix == ".h"], ids=relative)
def test_private_headers_define_static_functions_only(path):
    """Anything else could be linked in its AVX-512 form and crash a smaller machine."""
    text = without_comments(path.read_text())
    definition = r"^(?!static|typedef|extern|FL_|struct|enum|union|#|\s|\})[^;{}#\n]*\)\s*\n?\{"
    for match in re.finditer(definition, text, re.M):
        pytest.fail(f"not static: {match[0].strip()}")


def words_defined(path):
    text = without_comments(path.read_text())
    words = re.findall(r"^(?:static\b|FL_INLINE\b|FL_NOINLINE\b)[^;{}()]*?\b(\w+)\s*\(", text, re.M)
    words += re.findall(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", text, re.M)
    words += re.findall(r"^[ \t]*typedef\b[^;]*?\b(\w+)\s*(?:__attribute__[^;]*)?;", text, re.M)
    return set(words)


def test_one_vocabulary():
    """What kernels use of one instruction set's vocabulary exists in all; helpers used in one file are its own."""
    vocabularies = {path: words_defined(path) for path in sorted(KERNELS.glob("simd_*.h"))}
    assert len(vocabularies) >= 2
    users = [path for path in [*C_SOURCES, *(ROOT / "tests" / "c").glob("*.c")] if path not in vocabularies]
    used = set().union(*(re.findall(r"\w+", without_comments(path.read_text())) for path in users))
    common = used & set().union(*vocabularies.values())
    assert common
    lacking = {path.name: sorted(common - words) for path, words in vocabularies.items() if common - words}
    assert not lacking


def test_only_the_core_speaks_to_c():
    for path in sorted(PACKAGE.rglob("*.p[yx][xdi]*")) + PYTHON_MODULES:
        named = re.findall(r'extern\s+from\s+[<"]([^>"]+)[>"]', path.read_text())
        if not (path.stem.startswith("_core") and path.suffix in (".pyx", ".pxd", ".pxi")):
            assert not named, f"{path.name} names {named}"
        for header in named:
            system = header.split("/")[0] in {"Python.h", "numpy", "pythread.h"}
            assert header == "fastlstm.h" or system or header.removesuffix(".h") in SYSTEM_HEADERS, header


def imports(path):
    """(module, is_top_level) of every import; own modules as 'fastlstm.name'."""
    tree = ast.parse(path.read_text())
    package = ["fastlstm", *path.relative_to(PACKAGE).parts[:-1]]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "fastlstm":
                yield from ((f"fastlstm.{alias.name}", top) for alias in node.names)
            else:
                yield name, top


def rung(module):
    named = [height for height, names in enumerate(RUNGS) if names and module in names]
    return named[0] if named else RUNGS.index(None)


@pytest.mark.parametrize("path", PYTHON_MODULES, ids=relative)
def test_python_imports(path):
    me = path.relative_to(PACKAGE).with_suffix("").parts[0]
    own = {p.relative_to(PACKAGE).with_suffix("").parts[0] for p in PYTHON_MODULES} | {"_core"}
    for name, top in imports(path):
        parts = name.split(".")
        if top and parts[0] != "fastlstm":
            if parts[0] in OPTIONAL and me == parts[0]:
                continue  # fastlstm.sklearn is for those who have scikit-learn, fastlstm.river for those who have River
            assert parts[0] not in OPTIONAL, f"{name} is imported where it is used, not at the top"
            known = parts[0] in sys.stdlib_module_names or parts[0] in ("numpy", "threadpoolctl")
            assert known, f"{name} is no dependency of the package"
        if top and parts[0] == "fastlstm":
            other = parts[1] if len(parts) > 1 and parts[1] in own else "__init__"
            allowed = rung(other) < rung(me) or (rung(other) == rung(me) and rung(me) in PEERS)
            if rung(me) == len(RUNGS) - 1:
                allowed = rung(other) >= rung("__init__")
            assert allowed or other == me, f"{me} may not import {other}"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=relative)
def test_examples(path):
    """An example says what it shows, uses what users use, and is on the list."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert not re.search(r"\b(fl|fastlstm|net|layer|lstm|optimizer)\._", path.read_text())
    assert f"[{path.name}]({path.name})" in (path.parent / "README.md").read_text()


def test_public_header_stands_alone(tmp_path):
    tried = 0
    for compilers, language in ((("gcc", "clang", "cc"), ["-std=c99", "-x", "c"]),
                                (("g++", "clang++", "c++"), ["-std=c++11", "-x", "c++"])):  # fmt: skip
        compiler = next(filter(None, map(shutil.which, compilers)), None)
        if compiler:
            warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
            command = [compiler, *language, *warnings, "-fsyntax-only", str(PUBLIC_HEADER)]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            tried += 1
    if not tried:
        pytest.skip("no compiler here")


def test_flags_agree():
    """setup.py and tests/c/Makefile compile the engine alike."""
    values = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("BASE", "STD", "ISA"):
            code = compile(ast.Expression(node.value), "setup.py", "eval")
            values[ast.unparse(node.targets[0])] = eval(code, {})["unix"]
    makefile = (ROOT / "tests" / "c" / "Makefile").read_text()
    made = {name: flags.split() for name, flags in re.findall(r"^(\w+)[ \t]*:=[ \t]*(.*)$", makefile, re.M)}
    assert made["BASE"] == values["BASE"]
    assert made["STD"] == values["STD"]
    assert {isa: made[f"FLAGS_{isa}"] for isa in values["ISA"]} == values["ISA"]
    everything = (ROOT / "setup.py").read_text() + makefile
    code = re.sub(r"#[^\n]*", "", everything)
    assert not re.search(r"-ffast-math|-Ofast|-march=native", code)


SOURCES = {*C_SOURCES, *PYTHON_MODULES, *PACKAGE.rglob("*.p[yx][xdi]"), ROOT / "setup.py"}


@pytest.mark.parametrize("path", sorted(SOURCES), ids=relative)
def test_sizes(path):
    lines = path.read_text().count("\n")
    budget = 125 if path.name == "setup.py" else BUDGET.get(path.name, BUDGET_OTHERS)
    assert lines <= budget, f"{lines} lines; split it, or say why this file is special"
