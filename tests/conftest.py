"""What tests share: the folder of data that is too big to ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the full corpora: ``KVSIM_SHARED`` or ``../shared``; tests skip without it, except under CI."""
    folder = Path(os.environ.get("KVSIM_SHARED", HERE.parent.parent / "shared"))
    if not (folder / "data").is_dir():
        reason = "needs the full corpora: set KVSIM_SHARED to the folder that holds data/"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def logs() -> Path:
    """The excerpts of real logs that ship with the tests."""
    return HERE / "data" / "logs"
