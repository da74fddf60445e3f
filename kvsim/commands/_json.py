"""JSON on stdout: one object a command; what is unknown is null, never NaN."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import msgspec


def write(document: Mapping[str, Any]) -> None:
    """Print the document (msgspec writes NaN and infinities as null)."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
