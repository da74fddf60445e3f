"""``kvsim calibrate`` on the command line: which ways there are, and how it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_server import TinyServer
from typer.testing import CliRunner, Result

from kvsim.commands import app


def kvsim_calibrate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "l4"], "give one of --url, --in-process and --measurements"),
        (["--url", "http://x:1", "--measurements", "a.csv"], "more than one source"),
        (["--url", "http://x:1", "a.csv"], "Files follow --measurements"),
        (["--url", "x:1", "--gpu", "l4"], "is no URL of a server"),
        (["--in-process", "m", "--gpu", "l4", "--vllm-arg", "eager"], "Write NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str) -> None:
    done = kvsim_calibrate(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'kvsim[live]'")
    done = kvsim_calibrate("--url", "http://127.0.0.1:9", "--gpu", "l4", "-o", tmp_path / "c.toml")
    assert done.exit_code == 1
    assert "no server answers at http://127.0.0.1:9" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_calibration_is_not_overwritten(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'kvsim[live]'")
    (tmp_path / "c.toml").write_text("mine")
    done = kvsim_calibrate("--url", "http://127.0.0.1:9", "--gpu", "l4", "-o", tmp_path / "c.toml")
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert (tmp_path / "c.toml").read_text() == "mine"


def test_a_folder_that_is_not_there_is_said_before_measuring(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="needs aiohttp: pip install 'kvsim[live]'")
    with TinyServer() as server:
        done = kvsim_calibrate("--url", server.url, "--gpu", "l4", "-o", tmp_path / "nowhere" / "c.toml")
    assert done.exit_code == 2
    assert "there is no such folder" in done.stderr


def test_an_engine_in_this_process_needs_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    done = kvsim_calibrate("--in-process", "m", "--gpu", "l4", "-o", tmp_path / "c.toml")
    assert done.exit_code == 3
    assert "pip install 'kvsim[vllm]'" in done.stderr
