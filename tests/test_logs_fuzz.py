"""Damaged logs: strict reading fails only on purpose, lenient reading never fails and accounts for every record."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvsim.errors import InputError
from kvsim.logs import read

FILES = {
    "claude-code": "claude-code-log/todowrite_examples.jsonl",
    "weka": "kv-cache-tester/derived.excerpt.jsonl",
    "mooncake": "mooncake/conversation_trace.head200.jsonl",
    "openhands": "openhands/output.excerpt.jsonl",
    "openai": "openhands-sdk/llm-logs/litellm_proxy__anthropic__claude-sonnet-4-20250514-1757015033.222.json",
    "tau-bench": "tau-bench/gpt-4o-airline.excerpt.json",
    "otlp": "otlp/spans.jsonl",
    "verl": "verl/7.jsonl",
    "verl-tool": "verl-tool/torl-step-1.json",
    "skyrl": "skyrl/nq.jsonl",
}
SCRAPS = [
    b"",
    b"-",
    b"null",
    b"1e30",
    b'"',
    b"]",
    b"}",
    b"[",
    b"{",
    b"\xff",
    b",",
    b"\n",
    b"NaN",
    b"9" * 25,
    b"[]",
    b"{}",
]


def damaged(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        if rng.random() < 0.6:  # a value: what numbers and names are replaced by hurts most
            at = max(data.find(b": ", at), data.find(b":", at)) + 1
        data = data[:at] + rng.choice(SCRAPS) + data[at + rng.choice((0, 1, 2, 5, 40)) :]
    return data[: rng.randrange(len(data))] if rng.random() < 0.1 else data


@pytest.mark.parametrize("format", FILES)
def test_damage(logs: Path, tmp_path: Path, format: str) -> None:
    rng = random.Random(format)
    whole = (logs / FILES[format]).read_bytes()
    if format == "mooncake":
        whole = b"".join(whole.splitlines(keepends=True)[:30])
    path = tmp_path / "damaged.json"
    for _ in range(60):
        path.write_bytes(damaged(whole, rng) or b" ")
        report = read(path, format, lenient=True).report
        assert report is not None
        assert report.adds_up
        if report.dropped:
            with pytest.raises(InputError) as caught:
                read(path, format)
            assert caught.value.file == str(path)
            assert caught.value.remedy
        else:
            read(path, format)
