"""Registry of checkpoint formats: recognize the program that wrote a file, and rename its tensors to ours.

A format is a module with the members of `CheckpointFormat`. To add one, write the module and list it in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from torch import Tensor

from upernet.checkpoints.formats import mmsegmentation, transformers, unifiedparsing
from upernet.checkpoints.formats.halves import join_halves
from upernet.checkpoints.reading import Weights, read_weights
from upernet.errors import UpernetError

NATIVE = "upernet"
"""Name of the native format, and the key of its metadata in the header of a safetensors file."""


class CheckpointFormat(Protocol):
    """A format of another program."""

    @property
    def NAME(self) -> str:  # noqa: N802 (a constant of the module)
        """Name of the format, which becomes `ModelCard.origin`."""
        ...

    def recognizes(self, tensors: Mapping[str, Tensor]) -> bool:
        """Return whether these are the tensors of a network that this format's `translate` knows."""
        ...

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under our names and in our layouts; tensors that our networks lack are left out."""
        ...

    def class_names(self, weights: Weights) -> object:
        """Return what the file, or a file beside it, gives as class names, unchecked; None or empty if nothing."""
        ...


FORMATS: tuple[CheckpointFormat, ...] = (unifiedparsing, transformers, mmsegmentation)
"""Formats in the order in which they are tried."""


@dataclass(frozen=True)
class NamedWeights:
    """The tensors of a file under our names."""

    path: Path
    origin: str
    """Name of the file's format: `upernet`, `unifiedparsing`, `transformers`, or `mmsegmentation` (which InternImage's
    files have, too)."""
    tensors: dict[str, Tensor]
    metadata: dict[str, object]
    class_names: tuple[str, ...] = ()
    """Names of the object classes in the order of the logits, all different; empty if the file gives none."""

    @property
    def is_native(self) -> bool:
        """Whether the file is in the native format, which describes its model."""
        return self.origin == NATIVE


def read_named(path: str | Path) -> NamedWeights:
    """Read a checkpoint of any format and rename its tensors.

    Raises:
        UpernetError: the file cannot be read (see `read_weights`), or no known format recognizes it.
    """
    weights = join_halves(read_weights(path))
    if named := rename_weights(weights):
        return named
    if "upernet_run" in weights.metadata:
        raise UpernetError(f"{path}: the state of a training run; give the model.safetensors beside it.")
    known = " or ".join(format_.NAME for format_ in FORMATS)
    raise UpernetError(
        f"{path}: holds {len(weights.tensors)} tensors (the first is {next(iter(weights.tensors))}), but not of a "
        f"network that upernet can load; give a file of upernet itself, or UPerNet of {known} (such as InternImage's)."
    )


def rename_weights(weights: Weights) -> NamedWeights | None:
    """Return the weights under our names, or None if no format recognizes them."""
    if NATIVE in weights.metadata:
        return NamedWeights(weights.path, NATIVE, weights.tensors, weights.metadata)
    for format_ in FORMATS:
        if format_.recognizes(weights.tensors):
            tensors, names = format_.translate(weights.tensors), _distinct_names(format_.class_names(weights))
            return NamedWeights(weights.path, format_.NAME, tensors, weights.metadata, names)
    return None


def _distinct_names(names: object) -> tuple[str, ...]:
    """Return `names`, stripped, if they are different non-empty strings, else ()."""
    if not isinstance(names, (list, tuple)):
        return ()
    stripped = [name.strip() for name in cast(Sequence[object], names) if isinstance(name, str)]
    valid = len(stripped) == len(cast(Sequence[object], names)) == len(set(stripped)) and all(stripped)
    return tuple(stripped) if valid else ()
