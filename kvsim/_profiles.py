"""Loading of profiles: TOML files that ship with kvsim or that a user writes, read under a strict schema."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvsim.errors import InputError, UnknownNameError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


if TYPE_CHECKING:
    from importlib.abc import Traversable


@cache
def profiles() -> Traversable:
    """The folder of what ships with kvsim."""
    try:
        return files("kvsim.profiles")
    except ModuleNotFoundError:  # a checkout that is run as it stands, as the fit is
        return Path(__file__).parents[1] / "profiles"


def shipped(kind: str) -> Mapping[str, str]:
    """Texts of the shipped profiles of a kind ("gpus", "models", "calibrations") by bare file name."""
    folder = profiles().joinpath(kind)
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }


def read_text(path: str | Path) -> str:
    """The text of a user's file; InputError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be read: {reason}", remedy="Check the path.", file=str(path)) from error


def parse_toml(text: str, *, file: str) -> dict[str, Any]:
    """The tables of a TOML text; InputError naming the file if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not TOML: {error}", remedy="Correct the file.", file=file) from error


def check_fields(
    table: Mapping[str, Any],
    *,
    file: str,
    required: Iterable[str],
    optional: Iterable[str] = (),
    under: str = "",
) -> None:
    """Refuse unknown fields and missing ones; ``under`` is the dotted path of the table in its file."""
    required = list(required)
    known = {*required, *optional}
    prefix = f"{under}." if under else ""
    for field in table:
        if field not in known:
            raise InputError(
                "unknown field",
                remedy="Remove it or correct its name; known here: " + ", ".join(sorted(known)) + ".",
                file=file,
                field=prefix + field,
            )
    for field in required:
        if field not in table:
            raise InputError("missing", remedy="Add it.", file=file, field=prefix + field)


def looks_like_path(name: str, suffix: str) -> bool:
    """Whether a name means a file of the user's rather than a shipped profile."""
    return name.endswith(suffix) or name.startswith(("./", "../", "/", "~", ".\\", "..\\"))


class Names:
    """Ids and their aliases; looked up without regard to case, spaces and underscores."""

    def __init__(self, kind: str, aliases: Mapping[str, Iterable[str]]) -> None:
        self._kind = kind
        self._ids = sorted(aliases)
        self._owners: dict[str, set[str]] = {}
        for identifier, names in aliases.items():
            for name in (identifier, *names):
                self._owners.setdefault(_folded(name), set()).add(identifier)
        for identifier in self._ids:  # an id always means itself
            self._owners[_folded(identifier)] = {identifier}

    def resolve(self, name: str) -> str:
        """The id that a name means; UnknownNameError if none or several."""
        owners = self._owners.get(_folded(name), set())
        if len(owners) == 1:
            return next(iter(owners))
        if owners:
            raise UnknownNameError(
                self._kind, name, owners, remedy="The name is ambiguous: " + ", ".join(sorted(owners)) + "."
            )
        raise UnknownNameError(self._kind, name, self._ids)


def _folded(name: str) -> str:
    return name.strip().lower().replace(" ", "-").replace("_", "-")
