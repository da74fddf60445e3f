"""One HTML page about an estimate or a simulation, complete in itself; docs/report.md.

``Page`` is what goes in, ``render`` makes the text of it.
"""

from kvsim.report.page.html import render, require_packages
from kvsim.report.page.inputs import Cliff, Page, Survival

__all__ = ["Cliff", "Page", "Survival", "render", "require_packages"]
