"""Text written as it is made, compressed where the name says so."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from kvsim.errors import InputError

CHUNK = 1 << 20
"""Characters that are written at once."""

LEVEL = 6
"""Of gzip: what the command line tool takes."""


def write_text(path: str | os.PathLike[str], parts: Iterable[str]) -> None:
    """Write the parts one after the other, gzipped where ``path`` ends in ``.gz``; the same parts give the same bytes.

    Raises :class:`InputError` where the file cannot be written.
    """
    name = os.fspath(path)
    try:
        with _opened(name) as file:
            held: list[str] = []
            length = 0
            for part in parts:
                held.append(part)
                length += len(part)
                if length >= CHUNK:
                    file.write("".join(held).encode())
                    held, length = [], 0
            file.write("".join(held).encode())
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=name, remedy="Check the folder") from None


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    with open(path, "wb") as file:
        if not path.endswith(".gz"):
            yield file
            return
        # No name and no time in the header, so that nothing but the text decides on the bytes.
        with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
            yield packed  # type: ignore[misc]
