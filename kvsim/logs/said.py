"""What was said, for readers of words: kept only where :func:`kvsim.logs.read_with_text` asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvsim.logs.chat import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvsim.logs.chat import Message


class Called(NamedTuple):
    """A tool call as the model wrote it: ``arguments`` are text, mostly JSON, sound or not."""

    name: str | None
    arguments: str
    id: str | None = None


class Said(NamedTuple):
    """One message; of a user message that holds several tool results, one each."""

    role: str
    """system, tools (definitions), user, assistant or tool."""
    text: str
    reasoning: str = ""
    calls: tuple[Called, ...] = ()
    tool: str | None = None
    """The tool whose response this is."""
    call_id: str | None = None
    """The call whose response this is."""
    failed: bool | None = None
    """What the log says of a response; None: nothing."""


class Exchange(NamedTuple):
    """What a turn read anew, and what it wrote (None: not logged)."""

    read: tuple[Said, ...]
    wrote: Said | None


_ROLES = {"developer": "system", "function": "tool"}


def said_of(message: Message, tools: Mapping[str, str]) -> tuple[Said, ...]:
    """What a chat message says; ``tools``: names by the ids of calls."""
    role = _ROLES.get(message.role, message.role)
    reasoning = [message.reasoning_content or ""]
    words: list[str] = []
    calls = [
        Called(call.function.name, as_text(call.function.arguments), call.id)
        for call in message.calls
        if call.function is not None
    ]
    results: list[Said] = []
    for part in message.content if isinstance(message.content, list) else [message.content or ""]:
        if isinstance(part, str):
            words.append(part)
        elif part.type == "tool_use":
            calls.append(Called(part.name, as_text(part.input), part.id))
        elif part.type == "tool_result":
            failed = None if part.is_error is None else bool(part.is_error)
            name = tools.get(part.tool_use_id or "")
            results.append(Said("tool", part.words, tool=name, call_id=part.tool_use_id, failed=failed))
        elif part.thinking:
            reasoning.append(part.thinking)
        else:
            words.append(part.words)
    text = "".join(words)
    if results and not text and not calls:
        return tuple(results)
    name = message.name or tools.get(message.tool_call_id or "") if role == "tool" else None
    own = Said(role, text, "".join(reasoning), tuple(calls), name, message.tool_call_id if role == "tool" else None)
    return (*results, own)
