"""kvsim's CUDA module compiled for the host: the same .cu files, a grid as a loop (csrc/cuda/emulation).

It is for tests alone. They compile it themselves, into .cache/, once for each state of the sources.

    python tests/emulation.py [--sanitize]   # compiles it, and says where it is
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "csrc" / "cuda"
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
NAME = "_cuda_emulated"
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(*, sanitize: bool = False) -> Path:
    """The compiled module's path; compiles what has changed."""
    import pybind11

    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("the CUDA emulation needs g++")
    made_of = runpy.run_path(str(FOLDER / "sources.py"))
    sources = [*made_of["sources"](), *FOLDER.glob("emulation/*.cpp")]
    headers = [path for pattern in ("*.hpp", "*.h") for path in (ROOT / "csrc").rglob(pattern)]
    flags = [*FLAGS, *(SANITIZE if sanitize else []), "-DKVSIM_CUDA_EMULATION=1", f"-I{FOLDER / 'emulation'}"]
    flags += [f"-D{name}" for name in made_of["DEFINES"]]
    flags += [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    state = hashlib.sha256(repr((flags, sys.version)).encode())
    for header in sorted(headers):
        state.update(header.read_bytes())
    folder = ROOT / ".cache" / "cuda_emulation"
    folder.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in sorted(sources):
        own = state.copy()
        own.update(source.read_bytes())
        made = folder / f"{source.name}.{own.hexdigest()[:16]}.o"
        objects.append(made)
        if not made.exists():
            _run([compiler, *flags, "-x", "c++", "-c", str(source), "-o"], made)
    linked = hashlib.sha256("".join(map(str, objects)).encode()).hexdigest()[:16]
    module = folder / linked / f"{NAME}{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    if not module.exists():
        module.parent.mkdir(exist_ok=True)
        _run([compiler, "-shared", *(SANITIZE if sanitize else []), *map(str, objects), "-o"], module)
    return module


def _run(command: list[str], made: Path) -> None:
    """Runs a compiler; what it makes appears at once, so that others never see half of it."""
    part = made.with_name(f"{made.name}.{os.getpid()}")
    subprocess.run([*command, str(part)], check=True)
    part.replace(made)


def load() -> ModuleType:
    """The module; compiled with sanitizers where KVSIM_CUDA_SANITIZE is set (docs/gpu.md says how to run it)."""
    path = build(sanitize=bool(os.environ.get("KVSIM_CUDA_SANITIZE")))
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_emulated(module: ModuleType) -> bool:
    """Whether it is this one, and not the one for cards."""
    return module.__name__ == NAME


if __name__ == "__main__":
    print(build(sanitize="--sanitize" in sys.argv))
