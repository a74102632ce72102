"""Whose file it is: weights as they lie in a file, under this package's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from upernet.checkpoints.formats import mmsegmentation, transformers as huggingface
from upernet.checkpoints.reading import Weights, read_weights
from upernet.errors import UpernetError

OWN = "upernet"
"""Origin of own files, and the key of their metadata."""


@dataclass(frozen=True)
class NamedWeights:
    """Tensors of a file under own names."""

    path: Path
    origin: str
    """`upernet`, `transformers` or `mmsegmentation` (and what is built on it, as InternImage)."""
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    class_names: Sequence[str] = ()
    """Of the object level, where a foreign file says them: distinct, in the order of the logits."""


def read_named(path: str | Path) -> NamedWeights:
    """The tensors of a checkpoint under own names.

    Raises:
        UpernetError: as `read_weights`, or it is of no network that is known here.
    """
    weights = read_weights(path)
    if named := own_names(weights):
        return named
    if "upernet_run" in weights.metadata:
        raise UpernetError(f"{path}: the state of a training run; give the model.safetensors beside it.")
    raise UpernetError(
        f"{path}: holds {len(weights.tensors)} tensors (the first is {next(iter(weights.tensors))}), but not of a "
        "network that upernet knows: its own, or UPerNet of InternImage, mmsegmentation or transformers."
    )


def own_names(weights: Weights) -> NamedWeights | None:
    """The same weights under own names; None: of no network that is known here."""
    if OWN in weights.metadata:
        return NamedWeights(weights.path, OWN, weights.tensors, weights.metadata)
    if (tensors := huggingface.translate(weights.tensors)) is not None:
        names = _clean(huggingface.class_names(weights.path))
        return NamedWeights(weights.path, "transformers", tensors, weights.metadata, names)
    if (tensors := mmsegmentation.translate(weights.tensors)) is not None:
        names = _clean(mmsegmentation.class_names(weights.metadata))
        return NamedWeights(weights.path, "mmsegmentation", tensors, weights.metadata, names)
    return None


def _clean(names: object) -> tuple[str, ...]:
    """`names` if they can be names of classes: strings that differ."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return ()
    stripped = tuple(name.strip() for name in names)
    return stripped if all(stripped) and len(set(stripped)) == len(stripped) else ()
