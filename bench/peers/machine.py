"""Where something was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """Python, processor, cores and load in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cpu = next(names, platform.machine())
    return f"Python {platform.python_version()}, {cpu}, {os.cpu_count()} cores, load {load}"
