"""Columns of integers as text of an HTML page: planes of bytes, compressed. ``assets/unpack.js`` reads them."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def pack_columns(columns: Mapping[str, Ints]) -> tuple[bytes, list[dict[str, Any]]]:
    """The columns' bytes one after another, and of each its name, rows, lowest value and number of byte planes.

    A value is ``low`` plus the sum over planes k of its byte there x 256^k. Planes compress far better than whole
    integers, since the higher bytes of neighbours are alike. JavaScript has them exactly up to 2^53.
    """
    parts, specs = [], []
    for name, column in columns.items():
        low = int(column.min(initial=0)) if len(column) else 0
        over = (column - low).astype("<u8")
        planes = (int(over.max(initial=0)).bit_length() + 7) // 8
        parts.append(np.ascontiguousarray(over.view(np.uint8).reshape(len(column), 8)[:, :planes].T).tobytes())
        specs.append({"name": name, "rows": len(column), "low": low, "planes": planes})
    return b"".join(parts), specs


def zipped(content: bytes) -> str:
    """Compressed and in base64: the same text for the same bytes."""
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode("ascii")
