"""A Ray cluster as a place to call functions: what dies is begun anew, what fails fails as it would here."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from kvsim import __version__
from kvsim.errors import InputError, KvsimError, MissingExtraError

Item = TypeVar("Item")
Made = TypeVar("Made")

RETRIES = 5
"""So often is work begun anew whose worker or machine died, before it counts as what kills them."""

_AHEAD = 4
"""So many tasks a core are under way before the first result is asked for."""


@contextmanager
def _beside_kvsim() -> Iterator[None]:
    """The working directory is where this process imports kvsim from.

    Ray puts the directory it is started in before all else that workers import from, and a checkout's ``kvsim``
    folder, which is not built, would hide the package that is installed.
    """
    before = os.getcwd()
    os.chdir(Path(__file__).parents[2])
    try:
        yield
    finally:
        os.chdir(before)


class Cluster:
    """A Ray cluster by its address; what was connected here ends with the ``with``."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtraError("Ray", "scale", "working on a cluster") from None
        self._ray: Any = ray
        self._own = not ray.is_initialized()
        if self._own:
            try:
                with _beside_kvsim():
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                remedy = 'Start one with "ray start --head", or use "local" for this machine\'s cores'
                raise InputError(f"no Ray cluster at {address!r} ({error})", field="ray", remedy=remedy) from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        if self._own:
            self._ray.shutdown()

    @property
    def cores(self) -> int:
        """The cores of all its machines."""
        return max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def shared(self, value: Any) -> Any:
        """The value where all tasks find it, sent to each machine once."""
        return self._ray.put(value)

    def caller(self, work: Callable[..., Made]) -> Callable[..., Made]:
        """A function that runs ``work`` on some machine and waits for it; threads may call it at once."""
        task = self._task(work)
        return lambda *arguments: self._result(task.remote(*arguments))

    def map(self, work: Callable[..., Made], items: Iterable[Item], *common: Any) -> Iterator[Made]:
        """``work(*common, item)`` of each item, in order; ``common`` may be shared values."""
        task, window = self._task(work), _AHEAD * self.cores
        begun: deque[Any] = deque()
        try:
            for item in items:
                begun.append(task.remote(*common, item))
                if len(begun) >= window:
                    yield self._result(begun.popleft())
            while begun:
                yield self._result(begun.popleft())
        finally:
            for left in begun:
                self._ray.cancel(left)

    def data(self) -> Any:
        """Ray Data, without its own progress."""
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray.data

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Ray's ways of saying that workers died or could not begin, as errors that say what to do."""
        errors = self._ray.exceptions
        try:
            yield
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError) as e:
            raise workers_died(type(e).__name__, RETRIES + 1) from None
        except errors.RayError as e:
            if "No module named 'kvsim" in str(e):
                raise KvsimError(
                    f"Ray's workers have no kvsim: install version {__version__} on every machine"
                ) from None
            raise

    def _task(self, work: Callable[..., Any]) -> Any:
        return self._ray.remote(num_cpus=1, max_retries=RETRIES)(told_apart(work))

    def _result(self, reference: Any) -> Any:
        with self.failures():
            result, error = self._ray.get(reference)
        if error is not None:
            raise error
        return result


def workers_died(at: str, times: int) -> KvsimError:
    """Work that kills whoever does it, or needs more than there is."""
    return KvsimError(
        f"{at}: workers died {times} times at this work; give them more memory, or put less into one piece. What was "
        "written stays, and the same command goes on from there"
    )


def told_apart(work: Callable[..., Made]) -> Callable[..., tuple[Made | None, KvsimError | None]]:
    """``work`` for another process: results beside errors, which Ray would dress up."""
    version = __version__

    def outcome(*arguments: Any) -> tuple[Made | None, KvsimError | None]:
        import kvsim

        if kvsim.__version__ != version:
            return None, KvsimError(
                f"a worker has kvsim {kvsim.__version__}, not {version}: install the same everywhere"
            )
        try:
            return work(*arguments), None
        except KvsimError as error:
            return None, error

    return outcome
