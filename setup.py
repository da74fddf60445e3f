"""The extension modules; everything else is in pyproject.toml.

`KVSIM_CUDA=auto|on|off` decides about `kvsim._cuda`: auto builds it where nvcc is found and goes on without it where
the build fails; on makes its absence an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from pybind11.setup_helpers import Pybind11Extension
from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent))
from csrc.cuda.build import BuildExtensions, cuda_extension

# No -march=native, no fast-math, no fused multiply-add: the same bits on every machine and backend.
FLAGS = ["-O3", "-pthread", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra"]
FLAGS += os.environ.get("KVSIM_EXTRA_CXXFLAGS", "").split()
HEADERS = sorted(str(path) for path in Path("csrc").rglob("*.hpp"))

core = Pybind11Extension(
    "kvsim._core",
    sorted(str(path) for path in Path("csrc/bindings").glob("*.cpp")),
    cxx_std=17,
    extra_compile_args=FLAGS,
    depends=HEADERS,
)
ingest = Extension("kvsim._ingest", ["kvsim/_ingest.pyx"], extra_compile_args=["-O3"])

setup(
    ext_modules=[core, *cythonize([ingest], language_level=3), *cuda_extension(HEADERS)],
    cmdclass={"build_ext": BuildExtensions},
)
