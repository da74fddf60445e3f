"""Files that commands write: never over one that is there unless asked to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from kvsim.columns import records
from kvsim.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvsim.columns import Columns


def require_free(paths: Iterable[str | None], *, force: bool) -> None:
    """Refuse to write where a file is, or no folder."""
    for path in paths:
        if path is not None and not force and Path(path).exists():
            raise InputError("the file exists", file=path, remedy="Choose another name, or overwrite it with --force")
        if path is not None and not Path(path).parent.is_dir():
            raise InputError("there is no such folder", file=path, remedy="Make it, or choose another")


def write_columns(path: str, columns: Columns) -> None:
    """The columns as CSV, the header first; what is unknown is empty."""
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for record in records(columns):
                writer.writerow("" if value is None or value != value else value for value in record.values())
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path, remedy="Check the folder") from None


def write_text(path: str, text: str) -> None:
    """The text as a file; characters that no encoding has (halves of surrogate pairs) as question marks."""
    try:
        Path(path).write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path, remedy="Check the folder") from None
