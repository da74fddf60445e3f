"""How a log is divided: shards of files that are read together, each with a name of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import msgspec

from kvsim.errors import InputError
from kvsim.logs.source import Paths, find


@dataclass(frozen=True)
class Shard:
    """Files that are read as one batch; ``sizes`` in bytes and ``changed_ns`` tell whether they are still the same."""

    files: tuple[str, ...]
    sizes: tuple[int, ...]
    changed_ns: tuple[int, ...]

    @classmethod
    def of(cls, files: Iterable[str]) -> Shard:
        """The files as they are now."""
        names = tuple(files)
        try:
            found = [os.stat(name) for name in names]
        except OSError as error:
            remedy = "Leave the files alone while they are priced"
            raise InputError(
                f"cannot be found any more: {error.strerror}", file=error.filename, remedy=remedy
            ) from None
        return cls(names, tuple(one.st_size for one in found), tuple(one.st_mtime_ns for one in found))

    @property
    def name(self) -> str:
        """From the names of its files alone, so that more files make more shards and change none."""
        return hashlib.sha256("\0".join(self.files).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    def fingerprint(self, asked: str) -> str:
        """Of its files as they are and of what was asked for."""
        return hashlib.sha256(msgspec.json.encode([asked, self.name, self.sizes, self.changed_ns])).hexdigest()[:16]


def shards_of(paths: Paths, together: int | str = 1) -> list[Shard]:
    """The shards of files, globs and folders, in the order in which :func:`kvsim.read` reads them.

    ``together``: so many neighbouring files are one shard, or with ``"folder"`` all neighbours in one folder. File
    names are made absolute: other machines shall find them too.
    """
    files = list(dict.fromkeys(os.path.abspath(file) for file in find(paths)))
    if together == "folder":
        return [Shard.of(part) for _, part in groupby(files, os.path.dirname)]
    if isinstance(together, bool) or not isinstance(together, int) or together < 1:
        problem = f"{together!r} says not which files are read together"
        raise InputError(problem, field="together", remedy='Use a whole number from 1, or "folder"')
    return [Shard.of(files[first : first + together]) for first in range(0, len(files), together)]
