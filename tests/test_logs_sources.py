"""Finding, unzipping and cutting files; damage; memory that does not grow with the text; recognition by content."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tracemalloc
from pathlib import Path

import pytest

from kvsim.errors import InputError, UnknownNameError
from kvsim.logs import FORMATS, read
from kvsim.logs.shape import key_paths
from kvsim.logs.source import find

LINE = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
RUN = {"task_id": 1, "traj": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def test_find_sorts_and_descends(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json.gz", "deep/c.ndjson", "deep/ignored.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [Path(path).name for path in find(tmp_path)]
    assert names == ["a.json.gz", "b.jsonl", "c.ndjson"]
    assert [Path(path).name for path in find(str(tmp_path / "*.json*"))] == ["a.json.gz", "b.jsonl"]
    assert [Path(path).name for path in find([tmp_path / "b.jsonl", tmp_path])] == ["b.jsonl", "a.json.gz", "c.ndjson"]


@pytest.mark.parametrize("what", ["missing.jsonl", "*.none", "empty"])
def test_nothing_found_is_an_error(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"directory|file"):
        read(tmp_path / what)


def test_gz_bom_crlf_and_blank_lines(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + (LINE + "\n" + LINE).replace("\n", "\r\n").encode()
    (tmp_path / "plain.jsonl").write_bytes(data)
    (tmp_path / "zipped.log").write_bytes(gzip.compress(data))
    for name in ("plain.jsonl", "zipped.log"):
        batch = read(tmp_path / name)
        assert len(batch) == 2
        assert batch.report is not None
        assert batch.report.skipped == {"blank line": 1}
        assert batch.report.adds_up


def test_progress_counts_stored_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINE)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINE.encode()))
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    seen: list[tuple[int, int]] = []
    read(tmp_path, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (total, total)
    assert all(of == total for _, of in seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


BROKEN = {
    "not JSON": b"{nonsense\n",
    "NaN": b'{"timestamp": NaN, "input_length": 600, "output_length": 5, "hash_ids": []}\n',
    "Infinity": b'{"timestamp": Infinity, "input_length": 600, "output_length": 5, "hash_ids": []}\n',
    "negative": b'{"timestamp": 0, "input_length": -1, "output_length": 5, "hash_ids": []}\n',
    "absurd": b'{"timestamp": 1e30, "input_length": 600, "output_length": 5, "hash_ids": []}\n',
    "absurd hash": b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1e30]}\n',
    "big hash": b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [18446744073709551615]}\n',
    "wrong type": b'{"timestamp": 0, "input_length": "600", "output_length": 5, "hash_ids": []}\n',
    "empty prompt": b'{"timestamp": 0, "input_length": 0, "output_length": 5, "hash_ids": []}\n',
    "delta rows": b'{"session_id": 1, "timestamp": 0, "input_length": 9, "output_length": 5, "hash_ids": []}\n',
    "garbage after": LINE.strip().encode() + b" x\n",
    "deep": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_records(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(LINE.encode() + BROKEN[name] + LINE.encode())
    with pytest.raises(InputError) as caught:
        read(path, "mooncake")
    assert (caught.value.file, caught.value.line) == (str(path), 2)
    assert caught.value.remedy
    batch = read(path, "mooncake", lenient=True)
    assert len(batch) == 2
    assert batch.report is not None
    assert batch.report.adds_up
    assert batch.report.dropped.total() == 1
    assert len(batch.report.first_dropped) == 1


def test_invalid_utf8_in_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "\xff", "turns": [{"prompt_tokens": 1, "output_tokens": 1}]}\n')
    with pytest.raises(InputError, match="not valid JSON"):
        read(path)
    assert len(read(path, lenient=True)) == 0


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    whole = gzip.compress("".join(LINE.replace("600", str(600 + i)) for i in range(20_000)).encode())
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="cannot be read on"):
        read(path)
    batch = read(path, lenient=True)
    assert 0 < len(batch) < 20_000
    assert batch.report is not None
    assert batch.report.adds_up
    assert batch.report.dropped.total() == 1


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(InputError, match="empty"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(LINE)
    batch = read(tmp_path, lenient=True)
    assert len(batch) == 1
    assert batch.report is not None
    assert batch.report.adds_up


@pytest.mark.parametrize(
    ("text", "problem"),
    [("[%s", "ends inside"), ("[%s] x", "after the end"), ("[%s %s]", "not valid JSON"), ("[%s,]", "not valid JSON")],
)
def test_broken_arrays(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "runs.json"
    path.write_text(text.replace("%s", json.dumps(RUN)))
    with pytest.raises(InputError, match=problem):
        read(path, "tau-bench")
    report = read(path, "tau-bench", lenient=True).report
    assert report is not None
    assert report.adds_up
    assert report.dropped.total() == 1


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    def peak(runs: int, words: int) -> int:
        message = {"role": "tool", "content": "word " * words}
        run = {"task_id": 1, "traj": [*RUN["traj"], message, {"role": "assistant", "content": "x"}]}  # type: ignore[misc]
        path = tmp_path / "runs.json.gz"
        with gzip.open(path, "wt", compresslevel=1) as stream:
            stream.write("[")
            for number in range(runs):
                stream.write("," * (number > 0) + json.dumps(run | {"task_id": number}, indent=1))
            stream.write("]")
        read(path)  # imports done
        tracemalloc.start()
        read(path)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return taken

    small = peak(40, 20_000)  # 4 MB of text
    large = peak(400, 20_000)  # 40 MB
    assert large < small + 2_000_000


def test_formats_are_recognised_by_content(logs: Path, tmp_path: Path) -> None:
    expected = {
        "claude-code": "claude-code-log/session_b.jsonl",
        "weka": "kv-cache-tester/derived.excerpt.jsonl",
        "mooncake": "mooncake/conversation_trace.head200.jsonl",
        "openhands": "openhands/output.excerpt.jsonl",
        "openai": "openhands-sdk/llm-logs",
        "swe-agent": "swe-agent/function_calling_simple.traj",
        "tau-bench": "tau-bench/gpt-4o-airline.excerpt.json",
        "otlp": "otlp/spans.jsonl",
        "verl": "verl/7.jsonl",
        "verl-tool": "verl-tool/torl-step-1.json",
        "skyrl": "skyrl",
        "slime": "slime/0.pt",
        "trl": "trl/completions_00001.parquet",
    }
    if importlib.util.find_spec("pyarrow") is None:
        del expected["trl"]
    read(logs / expected["weka"]).to_jsonl(tmp_path / "neutral.jsonl")
    expected["neutral"] = str(tmp_path / "neutral.jsonl")
    for name, path in expected.items():
        report = read(logs / path).report
        assert report is not None
        assert list(report.formats) == [name]
        assert report.adds_up
    assert {*expected, "trl"} == set(FORMATS)


def test_unknown_formats_say_what_was_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"foo": 1}\n')
    with pytest.raises(InputError) as caught:
        read(path)
    for format in FORMATS.values():
        assert format.looks_for in str(caught.value)
    assert "foo" in str(caught.value)
    with pytest.raises(UnknownNameError, match="mooncake"):
        read(path, "moncake")


def test_key_paths_of_broken_off_text() -> None:
    text = b'{"a": {"b\\"c": [1, {"d": "x]}\\"", "e'
    assert key_paths(text) == {"a", 'a.b\\"c', 'a.b\\"c[].d'}
    assert key_paths(b'[{"a": 1}, [{"b"') == {"[].a"}
