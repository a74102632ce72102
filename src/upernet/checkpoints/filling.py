"""From the tensors of a file to a network: instantiate it without memory, match names and shapes, fill it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.formats import NamedWeights
from upernet.checkpoints.identify import ModelInfo
from upernet.checkpoints.native import is_auxiliary, read_info
from upernet.checkpoints.shapes import compare_shapes, is_counter, shape_error
from upernet.errors import UpernetError
from upernet.models import Preprocess, UPerNet
from upernet.models.backbones import backbone_normalization, build_backbone, feature_info
from upernet.models.familiarity import Familiarity
from upernet.recipe import ModelSpec
from upernet.taxonomy import Taxonomy

Net = TypeVar("Net", bound=UPerNet)


def instantiate(file: NamedWeights, info: ModelInfo, create: Callable[[ModelSpec, Taxonomy], Net]) -> Net:
    """Return the model on the meta device: whatever size a file claims, no memory is taken.

    It has an auxiliary head if both the file and the spec have one, and a familiarity if the file has one.

    Args:
        file: the file.
        info: what it holds.
        create: the class of the model.

    Raises:
        UpernetError: the network cannot be built.
    """
    spec = info.spec
    if not any(map(is_auxiliary, file.tensors)):
        spec = spec.model_copy(update={"auxiliary_channels": None})
    try:
        with torch.device("meta"):
            model = create(spec, info.taxonomy)
            model.familiarity = Familiarity.like(file.tensors, feature_info(model.backbone).channels())
            return model
    except (UpernetError, RuntimeError, TypeError, MemoryError, OverflowError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UpernetError(f"{file.path}: {info.name} describes a network that cannot be built ({reason}).") from error


def match_tensors(file: NamedWeights, info: ModelInfo, model: UPerNet) -> dict[str, Tensor]:
    """Return the file's tensors, one for each of the model's.

    The auxiliary head is left out if the model has none, and counters of batches that old files lack are added.

    Raises:
        UpernetError: a name or a shape differs.
    """
    own = model.state_dict()
    tensors = {
        key: value for key, value in file.tensors.items() if model.auxiliary is not None or not is_auxiliary(key)
    }
    for key, value in own.items():
        if is_counter(key) and (key not in tensors or tensors[key].numel() == 1):
            tensors[key] = tensors.get(key, torch.zeros(1)).reshape(value.shape)
    if wrong := compare_shapes(tensors, own):
        raise shape_error(file.path, info.name, wrong, guess_cause(file, info.spec, wrong))
    return tensors


def fill(model: UPerNet, tensors: Mapping[str, Tensor]) -> None:
    """Give a model on the meta device its tensors. They are copied: a model must not change when its file does."""
    own = model.state_dict()
    model.load_state_dict({key: tensors[key].to(own[key].dtype, copy=True) for key in own}, assign=True)
    model.preprocess = Preprocess(*backbone_normalization(model.spec.backbone))
    _compute_buffers(model)


def _compute_buffers(model: UPerNet) -> None:
    """Compute the buffers of timm's backbones that are not among their weights, such as tables of window positions."""
    waiting = [name for name, buffer in model.backbone.named_buffers() if buffer.is_meta]
    if waiting:
        spec = model.spec
        computed = dict(build_backbone(spec.backbone, feature_norms=spec.feature_norms).named_buffers())
        for name in waiting:
            module, _, last = name.rpartition(".")
            setattr(model.backbone.get_submodule(module), last, computed[name])


def guess_cause(file: NamedWeights, spec: ModelSpec, wrong: Mapping[str, str]) -> str:
    """Return the likely reason why the file does not fit, in words; "" if it is not known."""
    backbone = read_info(file).spec.backbone if file.is_native else backbone_of(file.tensors)
    if backbone not in (None, spec.backbone) and any(key.startswith("backbone.") for key in wrong):
        return f"the file looks like {backbone}, this is {spec.backbone}"
    if all(".classifier." in key for key in wrong):
        return "another taxonomy: only classifiers differ"
    return ""
