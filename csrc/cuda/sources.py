"""Which files kvsim._cuda is made of; setup.py compiles them for cards, the tests for their host emulation."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
BINDINGS = ("register_rates.cpp", "register_turns.cpp")
"""Those of kvsim._core that kvsim._cuda has too."""

DEFINES = ("KVSIM_CUDA_MODULE",)
"""What csrc/containers.hpp asks for: the engine's memory comes from an arena."""


def sources() -> list[Path]:
    """All files to compile, in one order."""
    own = [path for path in FOLDER.iterdir() if path.suffix in (".cpp", ".cu")]
    return sorted([*own, *(FOLDER.parent / "bindings" / name for name in BINDINGS)])
