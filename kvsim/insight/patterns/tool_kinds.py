"""What kind of tool a call uses, by its name; of a shell also by its command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from kvsim.insight.transcript import Call

SHELL = "shell and code"
FILES = "files"
WEB = "web"
CALCULATOR = "calculator"
APPLICATION = "application"
NOTES = ""
"""Notes to oneself, and ways to end a run or hand it over: no kind of tool."""

_WORDS = (
    (
        NOTES,
        "think thought todo todowrite todoread plan finish submit complete completion done exit final answer transfer "
        "terminate escalate summary memory task agent skill",
    ),
    (
        SHELL,
        "bash shell terminal cmd powershell python ipython jupyter interpreter execute exec run code sandbox repl "
        "stdin killshell bashoutput",
    ),
    (CALCULATOR, "calculate calculator calc wolfram math"),
    (WEB, "web google bing browse browser visit fetch crawl scrape url webpage wiki wikipedia websearch webfetch"),
    (
        FILES,
        "file files read write edit editor multiedit open create insert view glob grep ls notebookedit notebookread "
        "patch directory folder goto scroll cursors",
    ),
)
_KIND_OF = {word: kind for kind, words in reversed(_WORDS) for word in words.split()}
_EXACT = {"search": WEB, "find_file": FILES, "search_file": FILES, "search_dir": FILES, "str_replace": FILES}
_FIRST = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")

#: Commands of SWE-agent's own beside those of the shell.
_EDITOR = {"open", "create", "edit", "insert", "goto", "set_cursors", "find_file", "search_file", "search_dir"}
_READING = re.compile(
    r"^(?:get|list|search|find|read|view|show|fetch|look|check|calculate|calc|think|open|goto|scroll)"
)
_CHANGES_FILES = re.compile(r"edit|write|create|insert|patch|delete|replace|move|rename", re.IGNORECASE)


def is_command_line(call: Call) -> bool:
    """Whether the call is a command line whose first word is its tool (SWE-agent's text actions)."""
    words = call.arguments.split(None, 1)
    return bool(words) and words[0] == call.name


def kind_of(call: Call) -> str:
    """The kind of tool that a call uses."""
    name = call.name or ""
    if is_command_line(call):
        if name in ("submit", "exit"):
            return NOTES
        return FILES if name in _EDITOR or name.startswith("scroll") else SHELL
    if name.lower() in _EXACT:
        return _EXACT[name.lower()]
    words = [word.lower() for word in _FIRST.findall(name)]
    for kind, _ in _WORDS:
        if any(_KIND_OF.get(word) == kind for word in ({words[0], words[-1], name.lower()} if words else ())):
            return kind
    return APPLICATION if name else NOTES


def arguments_of(call: Call) -> dict[str, object] | None:
    """The arguments of a call as an object; None where they are none."""
    try:
        found = msgspec.json.decode(call.arguments.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    if isinstance(found, dict) and isinstance(found.get("arguments"), dict) and "name" in found:
        found = found["arguments"]  # the whole call stands in the text
    return dict(found) if isinstance(found, dict) else None


def command_of(call: Call) -> str | None:
    """The command line or code that a shell is asked to run; None for other tools."""
    if kind_of(call) != SHELL:
        return None
    if call.part == "text" or is_command_line(call):
        return call.arguments
    given = arguments_of(call) or {}
    for key in ("command", "cmd", "code", "script", "input"):
        if isinstance(given.get(key), str):
            return str(given[key])
    return None


def changes_something(call: Call) -> bool:
    """Whether a call is of a kind that may change what other calls see."""
    from kvsim.insight.patterns.shell import changes

    command = command_of(call)
    if command is not None:
        return changes(command)
    kind, name = kind_of(call), (call.name or "").lower()
    if kind in (NOTES, CALCULATOR, WEB):
        return False
    if kind == FILES:
        action = (arguments_of(call) or {}).get("command")
        return bool(_CHANGES_FILES.search(action if isinstance(action, str) else name))
    return not _READING.match(name)
