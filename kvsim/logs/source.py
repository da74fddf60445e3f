"""Log files as streams of JSON texts: found, unzipped, measured, and cut into records without being held in memory."""

from __future__ import annotations

import glob
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import BinaryIO, Literal, NamedTuple

from kvsim.errors import InputError

#: What is read of a file to recognise its format.
HEAD_BYTES = 1 << 18
_CHUNK_BYTES = 1 << 18
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz", ".parquet", ".traj")
_BOM = b"\xef\xbb\xbf"

Progress = Callable[[int, int], None]
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Layout = Literal["lines", "array", "document"]


class Text(NamedTuple):
    """One JSON text of a file and the line it begins on."""

    line: int
    data: bytes


def find(paths: Paths) -> list[str]:
    """The files that paths, globs and directories (searched recursively for .json, .jsonl, .ndjson, also .gz,
    .parquet and .traj) name.

    Each once; the order is that of the arguments, sorted within a glob or directory.
    """
    arguments = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not arguments:
        raise InputError("no files given", remedy="Give at least one file, glob or directory")
    found: dict[str, None] = {}
    for argument in arguments:
        for path in _matches(os.fspath(argument)):
            found.setdefault(path)
    return list(found)


def _matches(argument: str) -> list[str]:
    if os.path.isdir(argument):
        inside = [os.path.join(folder, name) for folder, _, names in os.walk(argument) for name in names]
        if files := sorted(path for path in inside if path.endswith(_SUFFIXES)):
            return files
        raise InputError(
            f"no log files ({', '.join(_SUFFIXES[:3])}, also with .gz, .parquet) in the directory",
            file=argument,
            remedy="Name the files if they end differently",
        )
    if os.path.exists(argument):
        return [argument]
    if glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))
        if files := [path for match in matches for path in (_matches(match) if os.path.isdir(match) else [match])]:
            return files
        raise InputError("no file matches", file=argument, remedy="Check the pattern and the working directory")
    raise InputError("there is no such file", file=argument, remedy="Check the path and the working directory")


class Source:
    """One file, read front to back.

    ``name`` is the path as given. Reading reports the bytes taken from the disk to ``advance``. Damage (a truncated
    archive, text that is not closed) raises :class:`InputError` when it is reached, after what precedes it was given.
    """

    def __init__(self, path: str, advance: Callable[[int], None] = lambda taken: None) -> None:
        self.name = path
        self._advance = advance

    @property
    def stem(self) -> str:
        """The file's name without folders and suffixes."""
        return os.path.basename(self.name).split(".", 1)[0]

    @cached_property
    def head(self) -> bytes:
        """The first 256 KiB of text."""
        with self._open(lambda taken: None) as stream:
            return self._read(stream, HEAD_BYTES).removeprefix(_BOM)

    @property
    def layout(self) -> Layout:
        """Whether each line is a JSON text, the file is one array of them, or it is one JSON text over many lines."""
        text = self.head.lstrip()
        first, _, rest = text.partition(b"\n")
        if text.startswith(b"["):
            return "lines" if rest.strip() and _closed(first) else "array"
        if text.startswith(b"{") and rest and first.rstrip()[-1:] in (b"{", b"[", b","):
            return "document"
        return "lines"

    def lines(self) -> Iterator[Text]:
        """Every line, blank ones too; memory: one line."""
        with self._open(self._advance) as stream:
            number = 0
            while True:
                try:
                    line = stream.readline()
                except (EOFError, OSError, zlib.error) as error:
                    raise self._damaged(error, number + 1) from None
                if not line:
                    return
                number += 1
                yield Text(number, line.removeprefix(_BOM) if number == 1 else line)

    def elements(self) -> Iterator[Text]:
        """The elements of the file's one array; memory: one element."""
        from kvsim._ingest import ArraySplitter

        splitter = ArraySplitter()
        with self._open(self._advance) as stream:
            first = True
            while chunk := self._read(stream, _CHUNK_BYTES, splitter.line):
                chunk = chunk.removeprefix(_BOM) if first else chunk
                first = False
                for line, data in splitter.feed(chunk):
                    yield Text(line, data)
                if splitter.state == "garbage":
                    raise InputError(
                        "text after the end of the array",
                        file=self.name,
                        line=splitter.garbage_line,
                        remedy="Keep one JSON array a file, or write one record a line",
                    )
        if splitter.state != "after":
            raise InputError(
                "the file ends inside the array",
                file=self.name,
                line=splitter.line,
                remedy="The file was cut off while being written or copied; get it whole, or read it leniently",
            )

    def texts(self) -> Iterator[Text]:
        """The file's records in whichever layout it has."""
        if self.layout == "array":
            return self.elements()
        if self.layout == "document":
            return iter([self.whole()])
        return self.lines()

    def whole(self) -> Text:
        """The whole file as one text (for formats that hold one record a file)."""
        with self._open(self._advance) as stream:
            return Text(1, self._read(stream, -1).removeprefix(_BOM))

    def _open(self, advance: Callable[[int], None]) -> BinaryIO:
        try:
            raw = open(self.name, "rb", buffering=0)  # noqa: SIM115 - closed by the stream that wraps it
        except OSError as error:
            remedy = "Check that the file is readable"
            raise InputError(f"cannot be opened: {error.strerror}", file=self.name, remedy=remedy) from None
        counted: io.BufferedReader = io.BufferedReader(_Counted(raw, advance), _CHUNK_BYTES)
        if counted.peek(2)[:2] == b"\x1f\x8b":
            return io.BufferedReader(_Unzipped(counted), _CHUNK_BYTES)
        return counted

    def _read(self, stream: BinaryIO, size: int, line: int = 1) -> bytes:
        try:
            return stream.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise self._damaged(error, line) from None

    def _damaged(self, error: Exception, line: int) -> InputError:
        return InputError(
            f"the file cannot be read on: {error}",
            file=self.name,
            line=line,
            remedy="It was cut off or damaged while being written or copied; get it whole, or read it leniently",
        )


class _Counted(io.RawIOBase):
    """A file that says how many bytes were taken from it."""

    def __init__(self, raw: io.FileIO, advance: Callable[[int], None]) -> None:
        self._raw = raw
        self._advance = advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        taken = self._raw.readinto(buffer) or 0
        self._advance(taken)
        return taken

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Unzipped(gzip.GzipFile):
    """A gzip stream that closes the file below it."""

    def __init__(self, below: BinaryIO) -> None:
        super().__init__(fileobj=below, mode="rb")
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


def _closed(text: bytes) -> bool:
    """Whether every bracket that the text opens is closed in it."""
    depth = 0
    in_string = escaped = False
    for byte in text:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
        elif byte in b"]}":
            depth -= 1
    return depth == 0 and not in_string
