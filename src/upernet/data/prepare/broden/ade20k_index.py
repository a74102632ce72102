"""The index of ADE20K: index_ade20k.mat (2016 and 2021), index_ade20k.pkl (2021), or the same values as JSON."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from upernet.data.prepare.broden.matlab import read_matlab
from upernet.errors import UpernetError
from upernet.files import refuse_special_file

MAX_BYTES = 2**32
"""Bytes of the largest index: that of 2021 has two tables of 3688 classes by 27,574 photos."""


@dataclass(frozen=True)
class Index:
    """The photos of a release in their order, and the names of its classes."""

    photos: tuple[str, ...]
    """Names without suffix."""
    names: Mapping[int, str]
    """Number of an object or part -> its name and synonyms, separated by commas."""


def read_index(path: Path) -> Index:
    """Read an index. A pickle is read without running anything that it names.

    Raises:
        UpernetError: The file is damaged, or is not the index of ADE20K.
    """
    load = _LOADERS.get(path.suffix)
    values = _read_values(path, load) if load else _read_mat(path)
    try:
        photos = [Path(name).stem for name in _texts(values["filename"])]
        names = _texts(values["objectnames"])
    except (KeyError, TypeError, ValueError):
        raise UpernetError(f"{path}: is not the index of ADE20K; take it from the archive again.") from None
    return Index(tuple(photos), dict(enumerate(names, 1)))


def _read_mat(path: Path) -> Mapping[str, Any]:
    index: Any = read_matlab(path, "index", MAX_BYTES)
    return {name: index[name].flat[0] for name in index.dtype.names or () if index.size}


def _texts(values: Any) -> list[str]:
    """Return a list of texts: Python's, numpy's, or MATLAB's (an array of arrays that hold a text each)."""
    if isinstance(values, _Inert):
        values = values.listed()
    items: list[Any] = list(getattr(values, "flat", values))
    texts = ["".join(item.flat) if hasattr(item, "flat") else item for item in items]  # MATLAB's "" is empty
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("not a list of texts")
    return [str(text) for text in texts]


class _Inert:
    """Stands for whatever a pickle names. It remembers the state that it is given and does nothing."""

    def __new__(cls, *arguments: object, **named: object) -> _Inert:
        del arguments, named
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        del arguments, named
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def listed(self) -> list[object]:
        """Return the items of a pickled numpy array of objects, whose state ends with a list of them."""
        try:
            items: object = self.state[-1]
        except (TypeError, LookupError):
            items = None
        if not isinstance(items, list):
            raise ValueError("not an array of objects")
        return cast("list[object]", items)


class _InertUnpickler(pickle.Unpickler):
    """Reads plain values. Every class and function that the pickle names becomes `_Inert`; nothing is imported."""

    def find_class(self, module_name: str, global_name: str, /) -> type[_Inert]:
        del module_name, global_name
        return _Inert

    def persistent_load(self, pid: object, /) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside")


_LOADERS: Mapping[str, Callable[[IO[bytes]], object]] = {
    ".pkl": lambda file: _InertUnpickler(file).load(),
    ".json": json.load,
}


def _read_values(path: Path, load: Callable[[IO[bytes]], object]) -> Mapping[str, Any]:
    refuse_special_file(path)
    damaged = f"{path}: is damaged, or is not the index of ADE20K"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UpernetError(f"{damaged}: it has more than {MAX_BYTES:,} bytes; take it from the archive again.")
        with path.open("rb") as file:
            values = load(file)
    except UpernetError:
        raise
    except Exception as error:  # a hostile file can raise anything
        raise UpernetError(f"{damaged} ({type(error).__name__}); take it from the archive again.") from None
    if not isinstance(values, dict):
        raise UpernetError(f"{damaged}; take it from the archive again.")
    return cast("dict[str, Any]", values)
