"""Single plots as HTML files that need no network, with the ``report`` extra (plotly)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from kvsim.errors import InputError, MissingExtraError


def require_plotly() -> Any:
    """plotly's graph objects; raises :class:`MissingExtraError` where it is not installed."""
    try:
        return importlib.import_module("plotly.graph_objects")
    except ImportError:
        raise MissingExtraError("plotly", "report", "a plot") from None


def write(figure: Any, path: str | Path) -> None:
    """The figure as one HTML file."""
    try:
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=str(path), remedy="Check the folder") from None
