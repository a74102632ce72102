"""Classifiers of a model whose classes differ from those of the checkpoint that it starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from upernet.models import UPerNet
from upernet.taxonomy import Taxonomy


def transfer_classifiers(model: UPerNet, tensors: Mapping[str, Tensor], taxonomy: Taxonomy) -> dict[str, Tensor]:
    """Return the classifiers of `model` with the rows of the classes that `taxonomy` has, too, taken from `tensors`.

    A class keeps its row if a class of the same level has the same name; a part, if its object has the same name, too.

    Args:
        model: The model to initialize.
        tensors: The weights of a model of `taxonomy`, by the names that they have in `model`.
        taxonomy: The classes of `tensors`.

    Returns:
        Tensor name -> weights or biases, of the classifiers whose classes differ and whose width agrees. Classes that
        `taxonomy` lacks have the values that they have in `model`.
    """
    own, found = model.state_dict(), dict[str, Tensor]()
    for level, name in _classifiers(model):
        theirs = taxonomy.logit_names(level) if level in taxonomy.levels else ()
        mine = model.taxonomy.logit_names(level)
        rows = {mine.index(label): theirs.index(label) for label in mine if label in theirs}
        for key in (f"{name}.weight", f"{name}.bias"):
            if mine == theirs or key not in tensors or tensors[key].shape[1:] != own[key].shape[1:]:
                continue
            found[key] = own[key].clone()
            found[key][list(rows)] = tensors[key][list(rows.values())].to(own[key].dtype)
    return found


def _classifiers(model: UPerNet) -> Iterator[tuple[str, str]]:
    """Yield the level and the name of each classifier."""
    for level in model.heads:
        yield level, f"heads.{level}.classifier"
    if model.auxiliary is not None:
        yield "object", "auxiliary.classifier"
