"""The README shows what kvsim does: its output is the real one, its code runs, its commands and files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvsim.commands import app
from kvsim.commands.demo import example
from kvsim.logs import FORMATS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^    (kvsim .*)$", TEXT.replace("\\\n", " "), re.MULTILINE)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with logs in runs/, and with the tests' data."""
    (tmp_path / "runs").mkdir()
    example().to_jsonl(tmp_path / "runs" / "example.jsonl")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "data").symlink_to(Path(__file__).parent / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


SHOWN = re.findall(r"```console\n\$ (kvsim .*)\n((?:.*\n)*?)```", TEXT)


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_output_shown_is_the_real_one(here, command, shown):
    real = CliRunner().invoke(app, shlex.split(command)[1:]).stdout
    assert shown.split() == real.split(), "it has changed: python tools/refresh_readme.py"


def test_output_is_shown():
    assert {command.split()[1] for command, _ in SHOWN} == {"demo", "sweep"}


@pytest.mark.parametrize("code", CODE)
def test_the_python_runs(here, code):
    exec(compile(code, "README.md", "exec"), {})


def test_there_is_python_to_run():
    assert len(CODE) >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(here, command):
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output


def test_there_are_commands_to_run():
    assert len(COMMANDS) >= 3


def test_every_format_is_listed():
    assert set(re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE)) == set(FORMATS)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_lead_somewhere(link):
    assert link.startswith("http") or (ROOT / link).exists()
