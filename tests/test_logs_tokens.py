"""Counting text without counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kvsim.errors import InputError, MissingExtraError, UnknownNameError
from kvsim.logs import read
from kvsim.logs.messages import from_messages
from kvsim.tokens import token_counter

TEXT = "def hello():\n    return 'world'\n" * 20


def test_by_length() -> None:
    counter = token_counter()
    assert counter.name == "characters/3.5"
    assert [counter(text) for text in ("", "a", "abcdefg", "abcdefgh")] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["qwen3", "o200k", "cl100k", "llama3", "auto"])
def test_encodings(name: str) -> None:
    pytest.importorskip("quicktok")
    counter = token_counter(name)
    assert 0 < counter(TEXT) < len(TEXT)
    assert counter("<|im_start|><|endoftext|>") > 0  # special tokens are text like any other


def test_a_tokenizer_file(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    counter = token_counter(tmp_path / "tokenizer.json")
    assert counter.name == "tokenizer.json"
    assert counter("hello world, hello") == 4
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        token_counter(tmp_path / "broken.json")


def test_missing_extras_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("quicktok", "tokenizers"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kvsim\[tokenizers\]'"):
        token_counter("qwen3")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(MissingExtraError, match=r"kvsim\[tokenizers\]"):
        token_counter(tmp_path / "tokenizer.json")
    assert token_counter("auto").name == "characters/3.5"


def test_unknown_tokenizers() -> None:
    with pytest.raises(UnknownNameError, match="qwen3"):
        token_counter("qwen33")
    with pytest.raises(InputError, match="no such file"):
        token_counter("nowhere.json")


def test_the_report_says_how_text_was_counted(logs: Path) -> None:
    pytest.importorskip("quicktok")
    path = logs / "tau-bench/gpt-4o-airline.excerpt.json"
    by_length, by_vocabulary = read(path), read(path, tokenizer="o200k")
    assert by_length.report is not None
    assert by_vocabulary.report is not None
    assert (by_length.report.counted_with, by_vocabulary.report.counted_with) == ("characters/3.5", "o200k")
    assert by_length.estimated_share == by_vocabulary.estimated_share == 1.0
    ratio = by_length.prompt_tokens.sum() / by_vocabulary.prompt_tokens.sum()
    assert 0.6 < ratio < 1.67


def test_from_messages_counts_every_message_once() -> None:
    batch = from_messages([[{"role": "user", "content": "abcdefg"}, {"role": "assistant", "content": "x" * 35}] * 2])
    assert batch.prompt_tokens.tolist() == [2 + 4 + 4, 10 + 10 + 2 + 4 + 4]
    assert batch.kept_tokens.tolist() == [0, 20]
    assert batch.output_tokens.tolist() == [10, 10]
    assert batch.estimated_tokens is not None
    assert batch.estimated_tokens.tolist() == [20, 20]
