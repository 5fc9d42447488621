"""Builds fastlstm._core: the Cython module and the C engine under it, linked into one shared object.

The kernels are one source compiled once per instruction set and element type, with that instruction set's
flags; which of them run is decided at import. An instruction set that the compiler lacks is left out.

Switches (environment): FASTLSTM_DEBUG=1 (no optimisation, asserts, symbols kept),
FASTLSTM_SANITIZE=1 (address and undefined-behaviour sanitizers; run with LD_PRELOAD=libasan).
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

DEBUG = os.environ.get("FASTLSTM_DEBUG", "0") not in ("", "0")
SANITIZE = os.environ.get("FASTLSTM_SANITIZE", "0") not in ("", "0")

# Never -ffast-math or -Ofast: at link, gcc then adds a start-up object that flushes subnormals to zero in
# the whole process. Never -march=native: a wheel runs elsewhere. -ffp-contract=off: every fused
# multiply-add is written as one, so that all instruction sets round alike. No -std on the Cython file.
BASE = {
    "unix": ["-O3", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
    "msvc": ["/O2", "/fp:precise"],
}
STD = {"unix": ["-std=c99"], "msvc": ["/std:c11"]}
OPENMP = {"unix": ["-fopenmp"], "msvc": ["/openmp"]}
# tests/c/Makefile has the same flags for the C tests; tests/test_layout.py compares the two.
ISA = {
    "unix": {
        "avx512": "-mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mf16c -mprefer-vector-width=512".split(),
        "avx2": "-mavx2 -mfma -mf16c".split(),
        "neon": [],
        "generic": [],
    },
    "msvc": {"avx512": ["/arch:AVX512"], "avx2": ["/arch:AVX2"], "neon": [], "generic": []},
}
PROBE = {
    "avx512": "#include <immintrin.h>\n__m512 f(__m512 a) { return _mm512_reduce_add_ps(_mm512_fmadd_ps(a, a,"
    " _mm512_maskz_loadu_ps(1, &a))) + _mm512_and_ps(a, a); }\n",
    "avx2": "#include <immintrin.h>\n__m256 f(__m256 a, __m128i h) { return _mm256_fmadd_ps(a, a,"
    " _mm256_cvtph_ps(h)); }\n",
    "neon": "#include <arm_neon.h>\nfloat64x2_t f(float64x2_t a) { return vfmaq_f64(a, a, a); }\n",
    "generic": "int f(void) { return 0; }\n",
    "openmp": "#include <omp.h>\nint f(void) { return omp_get_max_threads(); }\n",
}

CSRC = Path("src/fastlstm/csrc")
INCLUDE_DIRS = ["include", str(CSRC), str(CSRC / "kernels")]
# Without the headers in depends an edit to one would leave a stale module behind, silently.
DEPENDS = ["setup.py", *map(str, [*Path("include").glob("*.h"), *CSRC.parent.glob("*.pxi"), *CSRC.rglob("*.[ch]")])]


class BuildExt(build_ext):
    """Compiles the engine's objects and links them with the Cython module."""

    def build_extension(self, ext):
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        base, linked = BASE[kind] + ext.extra_compile_args, []
        if DEBUG and kind == "unix":
            base += ["-UNDEBUG", "-O0", "-g"]
        if SANITIZE:
            base += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
            linked += ["-fsanitize=address,undefined"]
        elif sys.platform == "linux" and not DEBUG:
            linked += ["-Wl,-s"]  # the symbol table is a third of the file
        isas = [isa for isa, flags in ISA[kind].items() if self.takes(isa, flags)]
        openmp = OPENMP[kind] if (CSRC / "threads.c").exists() and self.takes("openmp", OPENMP[kind]) else []
        have = [(f"FL_HAVE_{isa.upper()}", None) for isa in isas if isa != "generic"]
        configuration = repr((getattr(self.compiler, "compiler_so", kind), base, linked, isas, openmp))
        stamp = Path(self.build_temp, "configuration")  # other flags than last time: nothing is up to date
        self.force = self.force or not stamp.exists() or stamp.read_text() != configuration
        stamp.unlink(missing_ok=True)

        common = base + STD[kind]
        jobs = [(str(source), "once", have, common + (openmp if source.name == "threads.c" else []))
                for source in sorted(CSRC.glob("*.c"))]
        for isa in isas:
            for dtype, macros in ("f32", []), ("f64", [("FL_F64", None)]):
                jobs.append((str(CSRC / "kernels" / f"{isa}.c"), f"{isa}-{dtype}", macros, common + ISA[kind][isa]))
        jobs.sort(key=lambda job: "avx512" not in job[1])  # the longest first
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects += pool.map(lambda job: self.compile_one(*job), jobs)
        ext.extra_compile_args = base
        ext.extra_link_args += linked + (openmp if kind == "unix" else [])
        super().build_extension(ext)
        stamp.write_text(configuration)

    def compile_one(self, source, folder, macros, flags):
        """Object of one source. Its path comes from the source's, so two compilations need two folders."""
        folder = os.path.join(self.build_temp, folder)
        (target,) = self.compiler.object_filenames([source], output_dir=folder)
        made = os.path.getmtime(target) if os.path.exists(target) else 0
        depends = [source, *(name for name in DEPENDS if name.endswith((".h", ".py")))]
        if self.force or made <= max(map(os.path.getmtime, depends)):
            self.compiler.compile([source], folder, macros, INCLUDE_DIRS, extra_postargs=flags)
        return target

    def takes(self, name, flags):
        """Whether the compiler takes these flags and what they promise, for the machine it compiles for."""
        source = Path(self.build_temp, f"probe_{name}.c")
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(PROBE[name])
        try:
            return bool(self.compiler.compile([str(source)], str(source.parent / "probe"), extra_postargs=flags))
        except CompileError:
            return False


# NumPy 2 headers make a module for older NumPy too; the target says how old.
extension = Extension("fastlstm._core", ["src/fastlstm/_core.pyx"], include_dirs=["include", numpy.get_include()],
                      define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
                                     ("NPY_TARGET_VERSION", "NPY_1_23_API_VERSION")])
(extension,) = cythonize([extension], build_dir="build/cython")
extension.depends = DEPENDS  # not earlier: cythonize copies what an extension depends on to build_dir
setup(ext_modules=[extension], cmdclass={"build_ext": BuildExt})
