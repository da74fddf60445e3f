"""Every failure kvsim reports on purpose: one class each, with a message that names the remedy.

The CLI prints the message of a :class:`KvsimError` and exits with its ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_MOST_LISTED = 12
"""Up to so many known models or GPUs are listed where none is like the unknown one."""

_MOST_MEANT = 5


class KvsimError(Exception):
    """Base of all errors that kvsim raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:  # processes hand errors on whole, whatever their constructors want
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[KvsimError], arguments: tuple[Any, ...], state: dict[str, Any]) -> KvsimError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(state)
    return error


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
        end = " " if message.endswith(("?", "!")) else ". "
        super().__init__(f"{message}{end}{remedy}" if remedy else message)


class UnknownNameError(KvsimError, KeyError):
    """A name of a model, GPU, format, backend or policy that kvsim does not know."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str], *, remedy: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        if meant := _meant(name, self.known):
            hint = "did you mean " + " or ".join(map(repr, meant)) + "?"
        elif len(self.known) <= _MOST_LISTED or not ("model" in kind or "GPU" in kind):
            hint = "known: " + ", ".join(self.known)
        else:
            hint = f"{len(self.known)} are known, among them {', '.join(self.known[:_MOST_MEANT])}."
            remedy = remedy or "'kvsim profiles list' shows all models and GPUs."
        super().__init__(f"unknown {kind} {name!r}; {hint}" + (f" {remedy}" if remedy else ""))

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


def _meant(name: str, known: Iterable[str]) -> list[str]:
    """The known names that hold the unknown one, the shortest first; else those spelled nearly like it."""
    asked = name.strip().lower()
    holding = [other for other in known if asked in other.lower()] if len(asked) > 1 else []
    if holding:
        return sorted(holding, key=len)[:_MOST_MEANT]
    lowered = {part: other for other in known for part in (other.lower(), other.lower().rpartition("/")[2])}
    close = difflib.get_close_matches(asked, lowered, n=3, cutoff=0.5)
    return list(dict.fromkeys(lowered[match] for match in close))


class DoesNotFitError(KvsimError):
    """A model whose weights and workspace leave no room for a KV cache on the chosen GPUs."""

    exit_code = 2


class ExtrapolationError(KvsimError, ValueError):
    """A price that would rest on more than was measured, where that was to be refused."""

    exit_code = 2

    def __init__(self, beyond: Iterable[str]) -> None:
        self.beyond = tuple(beyond)
        said = " ".join(self.beyond)
        super().__init__(f"beyond the evidence: {said} Give a calibration that covers it, or leave out strict")


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
