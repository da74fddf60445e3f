"""The text of a page: the template filled in, style, scripts, data and plotly.js inside."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from kvsim.errors import MissingExtraError
from kvsim.report.page.data import columns_of, facts_of
from kvsim.report.page.overview import overview_of
from kvsim.report.page.packing import pack_columns, zipped

if TYPE_CHECKING:
    from kvsim.report.page.inputs import Page

SECTIONS = {
    "overview": "Overview",
    "tools": "Tools",
    "distribution": "Distribution",
    "trajectories": "Trajectories",
    "timeline": "Timeline",
    "engine": "Engine",
    "cliff": "Eviction cliff",
    "what-if": "What if",
    "patterns": "Patterns",
    "evidence": "Assumptions and evidence",
}
"""The page's sections in order, by id."""

FIRST_SCRIPTS = ("numbers", "elements", "overview")
"""What runs before the first paint, and needs nothing but the summary."""

MAIN_SCRIPTS = (
    "unpack",
    "address",
    "theme",
    "plots",
    "tables",
    "trajectories",
    "ranking",
    "timeline",
    "timeline_figures",
    "distribution",
    "tools",
    "engine",
    "cliff",
    "what_if",
    "patterns",
    "evidence",
    "main",
)


def require_packages() -> None:
    """Raise :class:`MissingExtraError` where jinja2 or plotly are not installed."""
    for package in ("jinja2", "plotly"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingExtraError(package, "report", "the report") from None


def render(page: Page) -> str:
    """The page as HTML. The same page gives the same text. Raises :class:`MissingExtraError` without the extra."""
    require_packages()
    jinja2: Any = importlib.import_module("jinja2")
    columns = columns_of(page)
    packed, specs = pack_columns(columns)
    overview = overview_of(page) | {"facts": page.facts}
    first, main, plotly = _scripts(FIRST_SCRIPTS), _scripts(MAIN_SCRIPTS), _plotly()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    safe: Any = importlib.import_module("markupsafe").Markup
    text: str = environment.from_string(_asset("page.html.j2")).render(
        sections=_sections(page),
        overview=overview,
        policy=_policy([first, main, plotly]),
        style=safe(_asset("page.css")),
        first_script=safe(first),
        main_script=safe(main),
        facts_data=zipped(json.dumps(facts_of(page, columns) | {"columns": specs}, allow_nan=False).encode()),
        columns_data=zipped(packed),
        plotly_data=_zipped_plotly(),
    )
    return text


def _sections(page: Page) -> list[tuple[str, str]]:
    """Those that this page has something for."""
    absent = {"engine"} if page.timeline is None else set()
    return [(id, label) for id, label in SECTIONS.items() if id not in absent]


def _policy(scripts: list[str]) -> str:
    """A content security policy under which only these scripts run, and nothing is ever fetched."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    rules = ["default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data: blob:"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _scripts(names: tuple[str, ...]) -> str:
    return '"use strict";\n' + "\n".join(_asset(f"{name}.js") for name in names)


@cache
def _asset(name: str) -> str:
    return (resources.files("kvsim.report.page") / "assets" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    text: str = importlib.import_module("plotly.offline").get_plotlyjs()
    return text


@cache
def _zipped_plotly() -> str:
    return zipped(_plotly().encode())
