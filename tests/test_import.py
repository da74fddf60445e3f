"""`import kvsim` is light, and every public name can be had."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import kvsim
import kvsim.insight
from kvsim._profiles import parse_toml

HEAVY = ("numba", "scipy", "plotly", "pandas", "torch")


def run(code: str) -> str:
    """What the code prints; run elsewhere, so that the checkout does not hide the installed package."""
    with tempfile.TemporaryDirectory() as elsewhere:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=elsewhere).stdout.strip()


def test_import_loads_nothing_heavy():
    assert run(f"import sys, kvsim; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_an_estimate_loads_nothing_heavy():
    code = f"""
import sys, kvsim
columns = dict(parent=[-1], kept_tokens=[0], prompt_tokens=[9], output_tokens=[9], pause_ns=[0], arrival_ns=[0])
batch = kvsim.Batch.from_columns(**columns, trajectory=[0])
kvsim.estimate(batch, model="Qwen/Qwen3-8B", gpu="h100-sxm").latency_s
print([name for name in {HEAVY} if name in sys.modules])"""
    assert run(code) == "[]"


@pytest.mark.parametrize("package", [kvsim, kvsim.insight])
def test_every_public_name_is_there(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("package", [kvsim, kvsim.insight])
def test_unknown_names_are_attribute_errors(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_every_package_ships():
    """A wheel holds what pyproject.toml lists; a checkout would hide that something is missing there."""
    root = Path(__file__).parents[1]
    listed = parse_toml((root / "pyproject.toml").read_text(encoding="utf-8"), file="pyproject.toml")
    there = {".".join(path.parent.relative_to(root).parts) for path in (root / "kvsim").rglob("__init__.py")}
    assert set(listed["tool"]["setuptools"]["packages"]) == there | {"kvsim.profiles"}
