"""What a tool's response says of its call: that it failed, or that it brought nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from kvsim.insight.patterns.shell import asks, checks
from kvsim.insight.patterns.tool_kinds import NOTES, command_of, kind_of

if TYPE_CHECKING:
    from kvsim.insight.transcript import Call

_EXIT = re.compile(
    r"<returncode>\s*(-?\d+)\s*</returncode>|(?:exit(?:ed)? (?:with )?(?:code|status)):?\s*(-?\d+)", re.I
)
_WRAPPING = (
    re.compile(r"<returncode>.*?</returncode>|</?output(?:_head|_tail)?>|</?tool_response>", re.DOTALL),
    re.compile(r"\((?:Open file|Current directory|Interactive session): [^\n]*\)|^bash-\$\s*$", re.MULTILINE),
    re.compile(
        r"^\[(?:The command completed|Command finished|Current working directory|Python interpreter)[^\n]*\]$", re.M
    ),
    re.compile(r"^\s*std(?:out|err):\s*$", re.MULTILINE),
)
_NOTHING = re.compile(
    r"(?:\[\s*\]|\{\s*\}|null|none|\(?no (?:output|results?|matches|files?)(?: found| matched)?\)?\.?"
    r"|0 (?:results|matches)|your command ran successfully and did not produce any output\.)?",
    re.IGNORECASE,
)
_ERROR_FIRST = re.compile(
    r"\W*(?:\w*error\b|\w*exception\b|traceback|fatal:|failed\b|failure\b|usage:|invalid\b|ran into\b|cannot\b"
    r"|could not\b|unknown (?:command|tool|option)|permission denied|(?:execution|command) timed out"
    r"|your proposed edit has introduced|<tool_use_error>)",
    re.IGNORECASE,
)
_ERROR_LINE = re.compile(
    r"command not found|no such file or directory|not a directory|is a directory|permission denied|no module named|"
    r"^\S*(?:Error|Exception)(?::|$)|^(?:\S+: )?(?:fatal|error|E): |make(?:\[\d+\])?: \*\*\*|^CMake Error|"
    r"cannot (?:open|access|stat|create)|unrecognized (?:option|argument)|no files to lint|errors occurred",
    re.IGNORECASE | re.MULTILINE,
)
_SHOWN_ON_PURPOSE = re.compile(
    r"\breproduc|\bas expected\b|\bto see (?:if|whether) it (?:fails|crashes)", re.IGNORECASE
)


class Outcome(NamedTuple):
    """What became of a call, and the words that say so."""

    kind: Literal["failed", "empty"]
    words: str


def bare(text: str) -> str:
    """A response without what environments wrap around what a tool said."""
    for wrapping in _WRAPPING:
        text = wrapping.sub("", text)
    return text.strip()


def outcome(call: Call) -> Outcome | None:
    """What a response says of its call; None where it went well, or nothing is logged."""
    if call.answer is None or kind_of(call) == NOTES:
        return None
    text = call.answer.said.text
    said = bare(text)
    command = command_of(call)
    if not said or _NOTHING.fullmatch(said):
        wanted = asks(command) if command is not None else True
        return Outcome("empty", said or "nothing") if wanted else None
    words = _failure(said, _exit_code(text), command, failed=call.answer.said.failed)
    if words is None:
        return None
    if command is not None and "Traceback" in said and _SHOWN_ON_PURPOSE.search(call.message.said.text):
        return None  # a bug is shown that is being looked into
    return Outcome("failed", words)


def _failure(said: str, code: int | None, command: str | None, *, failed: bool | None) -> str | None:
    """The words in which a response says that its call failed."""
    lines = said.splitlines()
    if failed:
        return lines[0].strip()
    if code == 0 and command is not None:
        return None
    if command is None:
        return lines[0].strip() if _ERROR_FIRST.match(said) else None
    if checks(command) and not re.search(r"command not found|no module named|usage:|error: unrec", said, re.IGNORECASE):
        return None
    if _ERROR_FIRST.match(said):
        return lines[0].strip()
    near = "\n".join(lines[:2] + lines[-3:])
    if found := _ERROR_LINE.search(near):
        line = near[near.rfind("\n", 0, found.start()) + 1 :]
        return line.splitlines()[0].strip()
    return lines[-1].strip() if code is not None and code != 0 else None


def _exit_code(text: str) -> int | None:
    found = list(_EXIT.finditer(text))
    return int(found[-1][1] or found[-1][2]) if found else None
