"""What tests share: the folder of data that is too big to ship, the logs that ship, a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def absent(reason: str) -> NoReturn:
    """Skips; a failure under CI, where everything has to be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the full corpora: ``KVSIM_SHARED`` or ``../shared``; tests skip without it, except under CI."""
    folder = Path(os.environ.get("KVSIM_SHARED", HERE.parent.parent / "shared"))
    if not (folder / "data").is_dir():
        absent("needs the full corpora: set KVSIM_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def logs() -> Path:
    """The excerpts of real logs that ship with the tests."""
    return HERE / "data" / "logs"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright; tests skip without it, except under CI.

    Of a module: while Playwright runs, no test can run an event loop of its own.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        absent("needs a browser: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("needs playwright: pip install playwright")
    with sync_playwright() as playwright:
        sandbox = [] if os.getuid() else ["--no-sandbox"]  # root has none
        running = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield running
        running.close()


# ---- CUDA: the host emulation, and a card where there is one ----


@pytest.fixture(scope="session")
def compiled_emulation():
    import emulation

    return emulation.load()


@pytest.fixture
def emulated(compiled_emulation):
    """The CUDA module on the host; its pretended card has 1 GiB, and is put back after each test."""
    yield compiled_emulation
    compiled_emulation.release_memory()
    compiled_emulation.pretend(1 << 30)


def cuda_on_a_card():
    """The module that would run on a card here, if there is one."""
    from kvsim.backends import cuda
    from kvsim.errors import BackendUnavailableError

    try:
        return cuda.load()._module
    except BackendUnavailableError:
        return None


@pytest.fixture(params=["emulated", "card"] if cuda_on_a_card() else ["emulated"])
def cuda_module(request):
    """Either; `pytest -k card` does not compile the emulation."""
    return request.getfixturevalue("emulated") if request.param == "emulated" else cuda_on_a_card()


@pytest.fixture
def chosen_cuda(cuda_module, monkeypatch):
    """``backend="cuda"`` means that module."""
    from kvsim import backends, pricing
    from kvsim.backends import cuda

    def forget():
        backends.get.cache_clear()
        pricing._resolve_once.cache_clear()  # pricings keep backends' handles

    monkeypatch.setattr(cuda, "_module", lambda: cuda_module)
    forget()
    yield cuda_module
    forget()
