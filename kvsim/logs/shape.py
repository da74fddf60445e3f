"""What keys a JSON text has where, read from its first bytes even when they break off in the middle."""

from __future__ import annotations

import re

#: How deep keys are looked at: enough for ``history[].tool_call_metadata.function_name``.
_DEPTH = 4

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|[\[\]{}]', re.DOTALL)


def key_paths(head: bytes) -> frozenset[str]:
    """Paths of keys such as ``messages[].role`` (``[].role`` in a top-level array), over all JSON texts in the head."""
    paths: set[str] = set()
    stack: list[str] = []  # the path of each open bracket
    here, key = "", ""
    for token in _TOKEN.finditer(head):
        text = token[0]
        if token[1] is not None:
            key = _joined(here, text[: -len(token[1])].strip(b'"').decode("utf-8", "replace"))
            if len(stack) <= _DEPTH:
                paths.add(key)
        elif text in b"[{":
            stack.append(here)
            here = key if text == b"{" else key + "[]"
            key = here
        elif text in b"]}" and stack:
            here = stack.pop()
            key = here
    return frozenset(paths)


def _joined(here: str, key: str) -> str:
    return f"{here}.{key}" if here else key
