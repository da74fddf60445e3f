"""Files that are there whole or not at all: Parquet parts that say in their footers what they are, and JSON."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from kvsim.columns import Columns

_KEY = b"kvsim"
UNFINISHED = ".part-"
"""How files begin that are being written; readers of Parquet folders leave out names with a leading dot."""


def write_part(path: Path, columns: Columns, kinds: Mapping[str, type], said: Mapping[str, Any]) -> None:
    """Write columns as Parquet, with ``said`` in the footer.

    ``kinds`` has the Python types of columns that are lists, None where a value is unknown; arrays know theirs.
    """
    arrow, parquet = pyarrow()
    types: dict[type | None, Any] = {None: None, str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    arrays = {name: arrow.array(values, types[kinds.get(name)]) for name, values in columns.items()}
    table = arrow.table(arrays).replace_schema_metadata({_KEY: msgspec.json.encode(said)})
    with replacing(path) as unfinished:
        parquet.write_table(table, unfinished, compression="zstd")


def footer(path: Path) -> dict[str, Any] | None:
    """What a part says; None where there is none, or no whole one."""
    arrow, parquet = pyarrow()
    try:
        found: dict[str, Any] = msgspec.json.decode(parquet.read_metadata(path).metadata[_KEY])
    except (OSError, arrow.ArrowException, LookupError, TypeError, msgspec.DecodeError):
        return None
    return found


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON, indented; what is unknown is null."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of another when all is written. Two may write the same at once."""
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        remedy = "Check the folder, and whether the disk is full"
        raise InputError(f"cannot be written: {error.strerror or error}", file=str(path), remedy=remedy) from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@cache
def pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet, or the sentence that says how to get them."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "scale", "writing Parquet") from None
    return arrow, parquet
