"""Command lines: which programs they run, and whether these answer, or change something."""

from __future__ import annotations

import re

_SEPARATORS = re.compile(r"&&|\|\||[;|\n]|\bdo\b|\bthen\b|\$\(|`")
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?[^\n]*\n.*?(?:\n\1\b|\Z)", re.DOTALL)
_ASSIGNMENTS = re.compile(r"^(?:\w+=\S*\s+|sudo\s+|time\s+|xargs\s+(?:-\S+\s+(?:\{\}\s+)?)*)+")
_QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"")
_REDIRECT = re.compile(r"(?<![0-9&])>>?(?!&)\s*(?!/dev/null)\S|\btee\b")

_ASKING = re.compile(
    r"^(?:grep|egrep|rg|ack|find|ls|cat|head|tail|wc|tree|which|type|awk|diff|echo|printf|curl|file|strings|stat|du|"
    r"sed\s+-n|git\s+(?:diff|log|show|status|grep|branch|blame)|pip3?\s+(?:show|list|freeze)|nl|locate|env|pwd)\b"
)
_CHANGING = re.compile(
    r"^(?:rm|mv|cp|mkdir|touch|ln|chmod|patch|make|cmake|unzip|tar|kill|pkill|sed\s+(?:-\w+\s+)*-\w*i|"
    r"(?:pip3?|python3?\s+-m\s+pip|conda|npm|yarn|apt|apt-get|brew|cargo|poetry|uv)\s+(?:-\S+\s+)*(?:install|add|i|remove|"
    r"uninstall|update|upgrade|sync)|"
    r"git\s+(?:add|commit|checkout|switch|apply|reset|restore|stash|rm|mv|pull|merge|rebase|clone|clean))\b"
)
_RUNNING = re.compile(r"^(?:python[0-9.]*|node|ruby|perl|Rscript|php|go\s+run|\./\S+)\b")
_CHECKING = re.compile(
    r"\b(?:pytest|unittest|tox|nox|jest|mocha|phpunit|rspec|pylint|flake8|ruff|mypy|eslint)\b|runtests|"
    r"\b(?:npm|go|cargo|make|mvn|gradle)\s+(?:run\s+)?test"
)


def commands(line: str) -> list[str]:
    """The single commands of a line or script, what they are fed and assignments before them left out."""
    bare = _HEREDOC.sub("\n", line)
    parts = (_ASSIGNMENTS.sub("", part.strip()) for part in _SEPARATORS.split(bare))
    return [part for part in parts if part]


def asks(line: str) -> bool:
    """Whether a line's last command is one whose output is what it is run for."""
    if changes(line):
        return False
    found = commands(line)
    return bool(found) and any(_ASKING.match(command) for command in found[-2:])


def changes(line: str) -> bool:
    """Whether a line writes files, installs, moves or deletes something, as far as its commands tell."""
    bare = _QUOTED.sub("''", _HEREDOC.sub(lambda match: match[0].split("\n", 1)[0] + "\n", line))
    if _REDIRECT.search(bare) or re.search(r"-exec\s+(?:sed\s+-i|rm|mv)\b|-delete\b", bare):
        return True
    return any(_CHANGING.match(command) for command in commands(line))


def runs_code(line: str) -> bool:
    """Whether a line runs a program or script of the user's own."""
    return any(_RUNNING.match(command) for command in commands(line))


def checks(line: str) -> bool:
    """Whether a line runs tests or a linter, which may fail without anything being wrong with the call."""
    return bool(_CHECKING.search(line))
