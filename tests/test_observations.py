"""Files of observations: written as they are measured, read strictly or leniently, mended after an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kvsim.calibrate.observation_files import MAGIC, Writer, read_observations, to_text
from kvsim.calibrate.observations import (
    KINDS,
    Header,
    Observation,
    pack_chunks,
    pack_decodes,
    unpack_chunks,
    unpack_decodes,
)
from kvsim.errors import InputError

HEADER = Header(
    model="Qwen/Qwen3-8B",
    gpu="h100-sxm",
    engine_version="vllm 0.32.0",
    engine={"block_size": 16, "async_scheduling": False},
    note='with "quotes"',
)
ROWS = [
    Observation("ttft", new_tokens=512, cached_tokens=0, seconds=0.0213, engine_s=0.0188, probe="a", repeat=1),
    Observation("decode", batch=8, context_tokens=1024.5, seconds=0.0077, steps=40, flag="background traffic"),
    Observation("mixed", new_tokens=256, cached_tokens=1024, batch=4, context_tokens=700, seconds=0.01),
    Observation("step", chunks="512@0 128@1024", decodes="7x2 9", seconds=0.011, cpu_wait_s=0.0001),
    Observation(
        "turn", trajectory="s0", turn=1, prompt_tokens=900, output_tokens=30, pause_s=0.5, e2e_s=0.4, at_s=1.25
    ),
    Observation("point", concurrency=16, prompt_tokens=1024, output_tokens=128, ttft_s=0.1, tpot_s=0.012, requests=80),
]


def test_every_kind_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert {row.kind for row in ROWS} == set(KINDS)
    with Writer(tmp_path / "whole.csv", HEADER) as writer:
        for row in ROWS:
            writer.write(row)
    (tmp_path / "narrow.csv").write_text(to_text(HEADER, ROWS))
    for name in ("whole.csv", "narrow.csv"):
        found = read_observations(tmp_path / name)
        assert found.header == HEADER
        assert list(found.rows) == ROWS  # where a row stood is not compared
        assert not found.warnings()
    assert [row.line for row in found.rows] == list(range(8, 14))


def test_a_file_that_was_cut_off_loses_its_last_line_only_and_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv"
    with Writer(path, HEADER) as writer:
        for row in ROWS[:3]:
            writer.write(row)
    whole = path.read_bytes()
    for cut in (1, 10, 30):
        path.write_bytes(whole[:-cut])
        found = read_observations(path)
        assert list(found.rows) == ROWS[:2]
        assert found.cut_off
        assert "cut off" in found.warnings()[0]
        with Writer(path, HEADER) as writer:
            writer.write(ROWS[2])
        assert path.read_bytes() == whole


def test_two_writers_do_not_mix_their_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with Writer(file, Header(gpu="l4")), pytest.raises(InputError, match="another process writes to it"):
        Writer(file, Header(gpu="l4"))
    with Writer(file, Header(gpu="l4")):
        pass


def test_rows_of_another_engine_are_not_added(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    Writer(path, HEADER).close()
    with pytest.raises(InputError, match="field 'model'"):
        Writer(path, replace(HEADER, model="Qwen/Qwen3-32B"))


@pytest.mark.parametrize(
    ("column", "cell", "line", "says"),
    [
        ("kind", "prefill", 3, "no kind of observation"),
        ("new_tokens", "12.5", 3, "no whole number"),
        ("new_tokens", "0", 3, "above 0"),
        ("new_tokens", "", 3, "needed for kind 'ttft'"),
        ("seconds", "-1", 3, "at least 0"),
        ("seconds", "nan", 3, "at least 0"),
        ("seconds", "", 3, "no time"),
        ("batch", "4", 3, "does not bear on kind 'ttft'"),
    ],
)
def test_a_broken_cell_is_named_and_left_out_leniently(
    tmp_path: Path, column: str, cell: str, line: int, says: str
) -> None:
    cells = {"kind": "ttft", "new_tokens": "5", "cached_tokens": "0", "seconds": "0.1", "batch": "", column: cell}
    path = tmp_path / "broken.csv"
    good = "ttft,5,0,0.2,"
    path.write_text("\n".join([MAGIC, ",".join(cells), ",".join(cells.values()), good, ""]))
    with pytest.raises(InputError, match=says) as error:
        read_observations(path)
    assert (error.value.file, error.value.line) == (str(path), line)
    assert error.value.remedy
    found = read_observations(path, lenient=True)
    assert len(found.rows) == 1
    assert sum(found.left_out.values()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind,seconds\n", "first line"),
        (f"{MAGIC}\n# colour = 1\nkind\n", "unknown fact"),
        (f"{MAGIC}\n# gpu = h100\nkind\n", "no JSON"),
        (f"{MAGIC}\n# engine = 3\nkind\n", "an object"),
        (f"{MAGIC}\nkind,colour\n", "unknown column"),
        (f"{MAGIC}\nkind,kind\n", "stands twice"),
        (f"{MAGIC}\nseconds\n", "missing"),
        (f"{MAGIC}\nkind,seconds\nstep,1,2\n", "3 cells under 2 columns"),
        (f"{MAGIC}\nkind,seconds\nstep,1\n", "without work"),
        (f"{MAGIC}\nkind,prompt_tokens,output_tokens,ttft_s\npoint,5,5,1\n", "either a concurrency or a request_rate"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_observations(path)


def test_steps_are_packed_and_unpacked() -> None:
    assert unpack_chunks(pack_chunks([(512, 0), (128, 1024)])) == [(512, 0), (128, 1024)]
    assert sorted(unpack_decodes(pack_decodes([9, 7, 7]))) == [7, 7, 9]
    for text in ("512", "0@5", "a@b"):
        with pytest.raises(ValueError):  # noqa: PT011 - its text is the cell
            unpack_chunks(text)
