"""The schema of chat messages, of whichever API: what of them matters to counts and to what was said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kvsim.logs.usage import Usage

#: A remark for ``ReadReport.flagged``.
IMAGE = "image: 0 tokens counted"

_IMAGES = ("image", "image_url", "input_image")
_UNDERSTOOD = ("text", "input_text", "output_text", "thinking", "refusal", "tool_use", "tool_result")


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class Call(msgspec.Struct):
    id: str | None = None
    function: Function | None = None


class Part(msgspec.Struct):
    """A part of a content list, of whichever API: the words of all its types at once."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    refusal: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    is_error: Any = None
    content: str | list[Part | str] | dict[str, Any] | None = None

    @property
    def words(self) -> str:
        """The words of the part, those of the parts inside it included."""
        if self.type == "tool_use":
            return (self.name or "") + as_text(self.input)
        if self.type == "tool_result":
            if isinstance(self.content, list):
                return "".join(part if isinstance(part, str) else part.words for part in self.content)
            return as_text(self.content)
        return self.text or self.refusal or ""

    def remarks(self) -> Iterator[str]:
        """What the words leave out."""
        if self.type in _IMAGES:
            yield IMAGE
        elif self.type is not None and self.type not in _UNDERSTOOD:
            yield f"content part {self.type!r} not understood: 0 tokens counted"
        if self.type == "tool_result" and isinstance(self.content, list):
            for part in self.content:
                if isinstance(part, Part):
                    yield from part.remarks()


class Message(msgspec.Struct):
    """A chat message, as far as it matters to token counts."""

    role: str
    content: str | list[Part | str] | None = None
    tool_calls: list[Call] | None = None
    function_call: Function | None = None
    reasoning_content: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """The words of the content, without reasoning."""
        if isinstance(self.content, list):
            return "".join(part if isinstance(part, str) else part.words for part in self.content)
        return self.content or ""

    @property
    def parts(self) -> list[Part]:
        """The parts of a content that is a list, bare strings left out."""
        if isinstance(self.content, list):
            return [part for part in self.content if isinstance(part, Part)]
        return []

    @property
    def calls(self) -> list[Call]:
        """The tool calls, the older single form included."""
        if self.function_call is not None:
            return [Call(function=self.function_call), *(self.tool_calls or ())]
        return self.tool_calls or []


def as_text(value: Any) -> str:
    """A value as text; text as it is."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
