"""``kvsim backends``: where pricing can run here."""

from __future__ import annotations

from typing import Any

from kvsim.commands._options import Json

_WHAT = {
    "native": "the C++ core",
    "numba": "the Python kernels, compiled by Numba",
    "reference": "the same Python kernels as they stand; slow, for checking",
    "cuda": "the CUDA module: estimates, PTE, sweeps; only where asked for by name",
}


def backends(json: Json = False) -> None:
    """List the backends, and say why what is not there is not."""
    from kvsim.backends import AUTOMATIC, MODULES, unavailable_reason

    rows: list[dict[str, Any]] = []
    for name in MODULES:
        reason = unavailable_reason(name)
        rows.append({"name": name, "available": reason is None, "what": _WHAT.get(name, ""), "reason": reason})
    chosen = next((row["name"] for row in rows if row["available"] and row["name"] in AUTOMATIC), None)
    if json:
        from kvsim.commands._json import write

        write({"schema": "kvsim.backends/1", "auto": chosen, "backends": rows})
        return
    _print(rows, chosen)


def _print(rows: list[dict[str, Any]], chosen: str | None) -> None:
    from rich.text import Text

    from kvsim.commands._console import results, table

    shown = table()
    for heading in ("backend", "here", "what it is, or why it cannot run"):
        shown.add_column(heading, no_wrap=heading != "what it is, or why it cannot run")
    for row in rows:
        here = Text("yes", style="green") if row["available"] else Text("no", style="red")
        reason = "" if row["available"] else str(row["reason"]).removeprefix(f"{row['name']}: ")
        shown.add_row(row["name"], here, Text(row["what"] if not reason else f"{row['what']}: {reason}"))
    console = results()
    console.print(shown)
    console.print(f"\n--backend auto takes {chosen or 'none: no backend can run'}. All give the same bits.")
