"""Counting tokens of text that came without counts: by a real tokenizer where one is asked for, else by length."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvsim.errors import InputError, MissingExtraError, UnknownNameError

#: Characters a token, where no tokenizer is used. English agent text in today's vocabularies has 3.1 to 3.6.
CHARACTERS_PER_TOKEN = 3.5

#: Vocabularies that the ``tokenizers`` extra brings (package quicktok-v1), by the names they go by.
ENCODINGS = {
    "cl100k": "cl100k_base",
    "cl100k_base": "cl100k_base",
    "llama3": "llama3",
    "o200k": "o200k_base",
    "o200k_base": "o200k_base",
    "o200k_harmony": "o200k_harmony",
    "qwen3": "qwen3",
}

#: What ``auto`` uses where the extra is installed.
AUTO_ENCODING = "o200k"


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of a text; ``name`` says how, for reports."""

    name: str
    count: Callable[[str], int]

    def __call__(self, text: str) -> int:
        return self.count(text)


def token_counter(tokenizer: str | os.PathLike[str] | None = None) -> TokenCounter:
    """The counter asked for.

    ``None``: characters / 3.5, rounded up. ``"auto"``: o200k where the ``tokenizers`` extra is installed, else as
    ``None``. A name of :data:`ENCODINGS`, or a path to a Hugging Face ``tokenizer.json``: that one, or
    :class:`MissingExtraError`.
    """
    if tokenizer is None:
        return _by_length()
    if tokenizer == "auto":
        try:
            return _encoding(AUTO_ENCODING)
        except MissingExtraError:
            return _by_length()
    name = os.fspath(tokenizer)
    if name in ENCODINGS:
        return _encoding(name)
    if name.endswith(".json"):
        return _from_file(name)
    raise UnknownNameError("tokenizer", name, ["auto", *ENCODINGS], remedy="Or give the path of a tokenizer.json.")


def _by_length() -> TokenCounter:
    return TokenCounter(f"characters/{CHARACTERS_PER_TOKEN}", lambda text: math.ceil(len(text) / CHARACTERS_PER_TOKEN))


def _encoding(name: str) -> TokenCounter:
    quicktok = _imported("quicktok", "quicktok-v1", f"counting tokens with {name!r}")
    return TokenCounter(name, quicktok.get_encoding(ENCODINGS[name]).count)


def _from_file(path: str) -> TokenCounter:
    if not os.path.isfile(path):
        raise InputError("there is no such file", file=path, remedy="Give the path of a tokenizer.json")
    tokenizers = _imported("tokenizers", "tokenizers", f"counting tokens with {path}")
    try:
        loaded = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"not a tokenizer: {error}", file=path, remedy="Give a Hugging Face tokenizer.json") from None
    return TokenCounter(os.path.basename(path), lambda text: len(loaded.encode(text, add_special_tokens=False).ids))


def _imported(module: str, package: str, purpose: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(package, "tokenizers", purpose) from None
