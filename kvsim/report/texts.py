"""Names from logs as JSON strings, whatever they hold."""

from __future__ import annotations

import msgspec

LONGEST = 160
"""Characters of a name that are shown as a label."""

BREAKS = {"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""What some readers take for the end of a line, as JSON escapes; JSON lets it stand."""

_encode = msgspec.json.Encoder().encode


def quoted(text: str) -> str:
    """A JSON string; what is no text (halves of surrogate pairs) becomes ``?``."""
    try:
        written = _encode(text).decode()
    except UnicodeEncodeError:
        written = _encode(text.encode("utf-8", "replace").decode()).decode()
    if not written.isascii():
        for character, escaped in BREAKS.items():
            written = written.replace(character, escaped)
    # Perfetto (v52) takes the quote after an escaped backslash for an escaped quote.
    return written[:-3] + '\\u005c"' if text.endswith("\\") else written


def label(text: str) -> str:
    """The text on one line and of bearable length, for a track or a slice; never empty."""
    line = "".join(character if character.isprintable() else " " for character in text[: 2 * LONGEST])
    if not line.strip():
        return "(no name)"
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
