"""Tool format collapse: calls that cannot be read, or that break the definitions of the tools."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from kvsim.insight.patterns.finding import Finding, Span, at_call
from kvsim.insight.patterns.tool_kinds import arguments_of, is_command_line

if TYPE_CHECKING:
    from kvsim.insight.transcript import Call, Message, Transcript

#: What environments answer to an output that they cannot use; looked for at the beginning of the answer only.
_REFUSED = re.compile(
    "|".join(
        (
            r"exactly one (?:action|tool|command|code)",
            r"format your (?:action|answer|response)",
            r"did not (?:use|contain|include) any (?:tool|function|valid)",
            r"no (?:valid )?(?:tool|function) call",
            r"(?:could not|failed to|unable to|cannot) parse",
            r"jsondecodeerror|malformed",
            r"invalid (?:json|tool call|function call|format)",
            r"missing (?:\d+ )?required",
            r"parameter `?\w+`? is required",
            r"required (?:parameter|argument|property|field)",
            r"error validating|validation error|inputvalidationerror|unexpected keyword",
            r"not (?:a )?regist(?:e)?r(?:e)?d",
            r"unknown (?:tool|function)|no such tool|tool .{0,40} (?:not found|does not exist)",
        )
    ),
    re.IGNORECASE,
)
_LOOKED_AT = 300
#: What a command that ran brought may speak of anything.
_RAN = re.compile(r"<returncode>|Traceback \(most recent call last\)")
_FENCED_CALL = re.compile(r"```(?:json|tool_call)?\s*\{\s*\"(?:name|tool|function)\"\s*:", re.IGNORECASE)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


class FormatCollapse:
    """Fires at the call or the text at fault.

    At fault is a call whose arguments are no JSON object, that names no tool of the log's definitions, lacks required
    arguments or has some of another type; a call written where calls are not read; and what the environment refused.
    """

    name = "format collapse"
    title = "output that could not be used as a tool call"

    def find(self, transcript: Transcript) -> Iterable[Finding]:
        definitions = _definitions(transcript)
        replies = _replies(transcript)
        by_message: dict[int, list[Call]] = {}
        for call in transcript.calls:
            by_message.setdefault(call.message.number, []).append(call)
        structured = any(call.part.startswith("calls[") for call in transcript.calls)
        for message in transcript.wrote():
            calls = by_message.get(message.number, [])
            faults = [(call, fault) for call in calls if (fault := _fault(call, definitions)) is not None]
            for call, fault in faults:
                yield at_call(transcript, call, fault)
            if faults:
                continue
            reply = replies.get(message.number, "")[:_LOOKED_AT]
            if _REFUSED.search(reply) and not _RAN.search(reply):
                detail = f"refused: {' '.join(reply.split())[:100]}"
                yield at_call(transcript, calls[0], detail) if calls else _at_text(transcript, message, detail)
            elif structured and not calls and _FENCED_CALL.search(message.said.text):
                yield _at_text(transcript, message, "a call in a code block")


def _replies(transcript: Transcript) -> dict[int, str]:
    """What came first after each answer: what a tool or the environment said."""
    found: dict[int, str] = {}
    last: int | None = None
    for message in transcript.messages:
        if message.said.role == "assistant":
            last = message.number
        elif last is not None and last not in found:
            found[last] = message.said.text
    return found


def _fault(call: Call, definitions: dict[str, Any]) -> str | None:
    """What is wrong with how a call is written."""
    if is_command_line(call) or (call.part == "text" and not _in_tags(call)):
        return None  # a command line or block of code, which has no form to break
    given = arguments_of(call)
    if given is None:
        if not call.arguments.strip():
            return None if call.name else "an empty call"
        return "arguments are no JSON object"
    if not definitions:
        return None
    if call.name not in definitions:
        return f"no tool is called {call.name!r}"
    schema = definitions[call.name or ""]
    properties = schema.get("properties") or {}
    missing = [name for name in schema.get("required") or () if name not in given]
    if missing:
        return f"{call.name}: {', '.join(map(str, missing))} missing"
    for name, value in given.items():
        kind = (properties.get(name) or {}).get("type")
        expected = _TYPES.get(kind) if isinstance(kind, str) else None
        if expected is not None and value is not None and not isinstance(value, expected):
            return f"{call.name}: {name} is no {kind}"
        if schema.get("additionalProperties") is False and name not in properties:
            return f"{call.name}: takes no {name}"
    return None


def _in_tags(call: Call) -> bool:
    """Whether a call stands between tags that hold JSON."""
    return call.message.said.text[: call.begin].endswith("<tool_call>")


def _definitions(transcript: Transcript) -> dict[str, Any]:
    """The schemas of tools by name, where the log has them."""
    found: dict[str, Any] = {}
    for message in transcript.messages:
        if message.said.role != "tools":
            continue
        try:
            tools = msgspec.json.decode(message.said.text.encode())
        except msgspec.DecodeError:
            continue
        for tool in tools if isinstance(tools, list) else []:
            function = tool.get("function", tool) if isinstance(tool, dict) else None
            if isinstance(function, dict) and isinstance(function.get("name"), str):
                schema = function.get("parameters") or function.get("input_schema")
                found[function["name"]] = schema if isinstance(schema, dict) else {}
    return found


def _at_text(transcript: Transcript, message: Message, detail: str) -> Finding:
    span = Span(transcript.number, message.turn, message.row, message.number, "text", 0, len(message.said.text))
    return Finding(message.row, detail, span)
