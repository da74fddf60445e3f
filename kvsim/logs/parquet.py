"""Parquet files as rows, with the ``parquet`` extra (pyarrow)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from kvsim.errors import InputError, MissingExtraError
from kvsim.logs.source import Source

MAGIC = b"PAR1"

_ROWS = 256
"""So many rows are in memory at a time."""


def columns(source: Source) -> frozenset[str]:
    """The names of the file's columns."""
    return frozenset(_opened(source, source.name).schema_arrow.names)


def rows(source: Source) -> Iterator[dict[str, Any]]:
    """Every row as a mapping, keys without a value left out at every depth."""
    pyarrow = _pyarrow(source)[0]
    opened = _opened(source, pyarrow.BufferReader(source.whole().data))
    try:
        for batch in opened.iter_batches(batch_size=_ROWS):
            yield from (_without_nulls(row) for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise _damaged(source, error) from None


def _opened(source: Source, what: Any) -> Any:
    pyarrow, parquet = _pyarrow(source)
    try:
        return parquet.ParquetFile(what)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(source, error) from None


def _damaged(source: Source, error: Exception) -> InputError:
    return InputError(f"cannot be read as Parquet: {error}", file=source.name, remedy="Get the file whole")


def _pyarrow(source: Source) -> tuple[Any, Any]:
    try:
        return _imported()
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", f"reading {source.name}") from None


@cache
def _imported() -> tuple[Any, Any]:
    return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")


def _without_nulls(value: Any) -> Any:
    """The value as it was before all rows got the same keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
