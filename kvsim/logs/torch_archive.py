"""Files of ``torch.save`` read without torch, and without running anything that they name.

Such a file is a zip archive with one pickle. Numbers, texts, lists and mappings are read as they are; whatever else the
pickle would make (tensors, arrays, objects) is left as :data:`OPAQUE`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from typing import Any

from kvsim.errors import InputError
from kvsim.logs.source import Source

MAGIC = b"PK\x03\x04"

_REMEDY = "Give a file as torch.save writes it, whole"


class _Opaque:
    """Stands for an object that is not read: can be made, called, filled and given a state, and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __new__(cls, *args: Any, **kwargs: Any) -> _Opaque:
        return object.__new__(cls)

    def __call__(self, *args: Any, **kwargs: Any) -> _Opaque:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take an element."""

    def extend(self, values: Any) -> None:
        """Take elements."""


OPAQUE = _Opaque()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Opaque

    def persistent_load(self, pid: Any) -> Any:
        return OPAQUE


def load(source: Source) -> Any:
    """What the archive holds."""
    try:
        with zipfile.ZipFile(io.BytesIO(source.whole().data)) as archive:
            name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if name is None:
                raise InputError("a zip archive without data.pkl", file=source.name, remedy=_REMEDY)
            return _Unpickler(io.BytesIO(archive.read(name)), encoding="utf-8").load()
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, *_ANY_DAMAGE) as error:
        problem = f"cannot be read as an archive of torch.save: {error}"
        raise InputError(problem, file=source.name, remedy=_REMEDY) from None


#: What a damaged pickle may raise besides.
_ANY_DAMAGE = (AttributeError, ImportError, IndexError, KeyError, MemoryError, TypeError, ValueError, OverflowError)
