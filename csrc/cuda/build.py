"""How setup.py builds `kvsim._cuda`: nvcc for *.cu, the C++ compiler for the binding, a static CUDA runtime."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pybind11.setup_helpers import Pybind11Extension
from setuptools.command.build_ext import build_ext

from csrc.cuda.sources import DEFINES, FOLDER, sources

ARCHITECTURES = ("75", "80", "90", "100", "120")
"""Real code for Turing to Blackwell, of which later minor versions run that of the first (8.6 and 8.9 that of 8.0), and
PTX of the last for what comes after. ``KVSIM_CUDA_ARCHITECTURES="90"`` builds for these alone."""


def cuda_extension(headers: list[str]) -> list[Pybind11Extension]:
    """The extension, or none: KVSIM_CUDA=auto|on|off decides where nvcc is missing."""
    wanted = os.environ.get("KVSIM_CUDA", "auto")
    if wanted not in ("auto", "on", "off"):
        raise SystemExit(f"KVSIM_CUDA={wanted}: use auto, on or off")
    if wanted == "off":
        return []
    if shutil.which("nvcc") is None:
        if wanted == "on":
            raise SystemExit("KVSIM_CUDA=on, but there is no nvcc on PATH")
        return []
    extension = Pybind11Extension(
        "kvsim._cuda",
        [str(path.relative_to(FOLDER.parent.parent)) for path in sources()],
        cxx_std=17,
        define_macros=[(name, None) for name in DEFINES],
        depends=[*headers, *map(str, Path("csrc/cuda").glob("*.hpp"))],
        libraries=["cudart_static", "dl", "rt", "pthread"],
        optional=wanted == "auto",
    )
    return [extension]


def library_folders() -> list[str]:
    """Where the CUDA runtime's libraries lie, as nvcc itself says (nvcc may be a wrapper script)."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder, "empty.cu")
        empty.touch()
        said = subprocess.run(["nvcc", "--dryrun", str(empty)], capture_output=True, text=True, check=True)
    folders = re.findall(r'-L"?([^"\s]+)', said.stdout + said.stderr)
    return [folder for folder in dict.fromkeys(folders) if Path(folder).is_dir()]


class BuildExtensions(build_ext):
    """`build_ext` that hands *.cu files to nvcc."""

    def build_extension(self, ext: Any) -> None:
        if ext.name != "kvsim._cuda":
            super().build_extension(ext)
            return
        try:
            ext.library_dirs += library_folders()
            ext.extra_objects += [self.compile_cuda(source) for source in ext.sources if source.endswith(".cu")]
        except (OSError, subprocess.CalledProcessError) as error:
            if not ext.optional:
                raise
            print(f"kvsim._cuda is left out: {error}", file=sys.stderr)
            return
        ext.sources = [source for source in ext.sources if not source.endswith(".cu")]
        super().build_extension(ext)

    def compile_cuda(self, source: str) -> str:
        """Compile one .cu file for every architecture this nvcc knows; the object's path."""
        known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
        wanted = os.environ.get("KVSIM_CUDA_ARCHITECTURES", "").split() or ARCHITECTURES
        real = [architecture for architecture in wanted if f"sm_{architecture}" in known.split()]
        if not real:
            raise OSError(f"nvcc knows none of the architectures {' '.join(wanted)}")
        codes = [f"-gencode=arch=compute_{one},code=sm_{one}" for one in real]
        codes.append(f"-gencode=arch=compute_{real[-1]},code=compute_{real[-1]}")
        target = Path(self.build_temp, source).with_suffix(".cu.o")
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-O3", "-std=c++17", "--fmad=false", "-Xcompiler", "-fPIC", "-cudart", "static", "--threads=0"]
        flags += [f"-D{name}" for name in DEFINES]
        subprocess.run(["nvcc", *flags, *codes, "-c", source, "-o", str(target)], check=True)
        return str(target)
