"""A folder of prices: Parquet parts, one a shard, each there whole or not at all.

    prices/asked.json                 what the prices rest on; written first
    prices/trajectories/NAME.parquet  one row a trajectory and GPU
    prices/turns/NAME.parquet         one row a turn and GPU, where asked for
    prices/manifest.json              sums, and every shard; written last

A part carries its shard's receipt in its footer. That of trajectories is written last and under another name first:
where it stands, the shard is done. So a run goes on from whatever an earlier one left, in whichever way it ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim.errors import InputError
from kvsim.scale.parts import UNFINISHED, footer, pyarrow, write_json, write_part

if TYPE_CHECKING:
    from kvsim.columns import Columns
    from kvsim.scale.shards import Shard

Receipt = dict[str, Any]
"""What a shard came to, as plain values; :mod:`kvsim.scale.pricing` says which."""

TABLES = ("trajectories", "turns")
_BEGUN = ".begun-"

_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("gpu", "file", "id", "trajectory", "tool", "status"), str),
    "parent": int,
}
"""Columns that are lists; all others are arrays, which say what they hold themselves."""


class Store:
    """Prices in a folder, of one thing asked for."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        pyarrow()

    def begin(self, fingerprint: str, asked: Mapping[str, Any], shards: Iterable[Shard]) -> None:
        """Make the folder this one's; InputError where it holds prices of other files or of something else."""
        try:
            for table in TABLES:
                (self.folder / table).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(f"cannot be made: {error.strerror}") from None
        statement = self.folder / "asked.json"
        if statement.exists():
            try:
                before = msgspec.json.decode(statement.read_bytes())["fingerprint"]
            except (OSError, ValueError, LookupError, TypeError):
                raise self._unusable("its asked.json is none of kvsim's") from None
            if before != fingerprint:
                raise self._unusable("it has prices for another model, GPU, load, option or version of kvsim")
        elif any(self._parts(table) for table in TABLES):
            raise self._unusable("there are Parquet files in it that nobody asked for")
        wanted = {shard.name for shard in shards}
        if strange := sorted(set(self._parts("trajectories")) - wanted):
            receipt = footer(self._path("trajectories", strange[0]))
            example = receipt["files"][0] if receipt else f"{strange[0]}.parquet"
            raise self._unusable(f"it has prices of {len(strange)} shards of other files, among them {example}")
        self._sweep_up(f"{_BEGUN}*")
        write_json(statement, {"fingerprint": fingerprint, **asked})

    def receipt(self, shard: Shard, fingerprint: str) -> Receipt | None:
        """The receipt of a shard that is done, else None."""
        found = footer(self._path("trajectories", shard.name))
        return found if found is not None and found["fingerprint"] == fingerprint else None

    def begun(self, shard: Shard) -> int:
        """Note that somebody begins with a shard; how many have in this run, none of whom came to its end."""
        with open(self._begun(shard), "ab") as file:
            file.write(b".")
            return file.tell()

    def ended(self, shard: Shard) -> None:
        """Note that whoever began came to an end."""
        self._begun(shard).unlink(missing_ok=True)

    def write(self, shard: Shard, receipt: Receipt, tables: Mapping[str, Columns]) -> None:
        """Write a shard's tables, with trajectories the last."""
        for name in reversed(TABLES):
            if name in tables:
                write_part(self._path(name, shard.name), tables[name], _KINDS, receipt)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, and take away what processes that were killed left unfinished."""
        write_json(self.folder / "manifest.json", manifest)
        self._sweep_up(f"{UNFINISHED}*")
        self._sweep_up(f"{_BEGUN}*")
        for table in TABLES:
            with contextlib.suppress(OSError):  # empty where nobody asked for that table
                (self.folder / table).rmdir()

    def _sweep_up(self, pattern: str) -> None:
        for table in TABLES:
            for left in (self.folder / table).glob(pattern):
                left.unlink(missing_ok=True)

    def _begun(self, shard: Shard) -> Path:
        return self.folder / TABLES[0] / f"{_BEGUN}{shard.name}"

    def _path(self, table: str, name: str) -> Path:
        return self.folder / table / f"{name}.parquet"

    def _parts(self, table: str) -> list[str]:
        return [path.stem for path in (self.folder / table).glob("[!.]*.parquet")]

    def _unusable(self, problem: str) -> InputError:
        remedy = "Choose another folder, or remove this one"
        return InputError(problem, file=str(self.folder), field="out", remedy=remedy)
