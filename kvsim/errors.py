"""Every failure kvsim reports on purpose: one class each, with a message that names the remedy.

The CLI prints the message of a :class:`KvsimError` and exits with its ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST_LISTED = 40


class KvsimError(Exception):
    """Base of all errors that kvsim raises on purpose."""

    exit_code = 1


class InputError(KvsimError, ValueError):
    """Input that cannot be used: says where it stands, what is wrong, and what to do."""

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.problem = problem
        self.remedy = remedy
        self.file = file
        self.line = line
        self.field = field
        self.trajectory: int | None = None
        """The number of the trajectory at fault, where a whole batch was checked."""
        place = ":".join(str(part) for part in (file, line) if part is not None)
        where = ", ".join(part for part in (place, f"field '{field}'" if field else "") if part)
        message = f"{where}: {problem}" if where else problem
        super().__init__(f"{message}. {remedy}" if remedy else message)


class UnknownNameError(KvsimError, KeyError):
    """A name of a model, GPU, format, backend or policy that kvsim does not know."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str], *, remedy: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        lowered = {part: other for other in self.known for part in (other.lower(), other.lower().rpartition("/")[2])}
        close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
        if close:
            hint = "did you mean " + " or ".join(repr(match) for match in dict.fromkeys(close)) + "?"
        elif len(self.known) <= _MOST_LISTED:
            hint = "known: " + ", ".join(self.known)
        else:
            hint = f"known: {', '.join(self.known[:_MOST_LISTED])}, ... ({len(self.known)} in all)"
        super().__init__(f"unknown {kind} {name!r}; {hint}" + (f" {remedy}" if remedy else ""))

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class DoesNotFitError(KvsimError):
    """A model whose weights and workspace leave no room for a KV cache on the chosen GPUs."""

    exit_code = 2


class BackendUnavailableError(KvsimError):
    """A backend asked for by name that this installation or machine cannot run."""

    exit_code = 3


class MissingExtraError(KvsimError, ImportError):
    """An optional dependency that is not installed."""

    exit_code = 3

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}: pip install 'kvsim[{extra}]'")
        self.package = package
        self.extra = extra
