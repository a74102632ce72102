"""From a checkpoint of any format to a model.

Every file takes the same steps: read it (`reading`), rename its tensors (`formats`), identify the model (`native`,
`identify`), instantiate it without memory for its tensors, match their names and shapes (`shapes`), fill it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.card import ModelCard
from upernet.checkpoints.classifiers import transfer_classifiers
from upernet.checkpoints.finding import find_checkpoint, missing_weights, published_checkpoint
from upernet.checkpoints.formats import NamedWeights, read_named
from upernet.checkpoints.identify import (
    ModelInfo,
    identify_by_recipe,
    identify_by_tensors,
    info_of_recipe,
    same_architecture,
    same_classes,
)
from upernet.checkpoints.native import is_auxiliary, read_info
from upernet.checkpoints.shapes import compare_shapes, is_counter, is_optional, shape_error
from upernet.checkpoints.terms import refuse_research_weights
from upernet.errors import UpernetError
from upernet.models import Preprocess, UPerNet
from upernet.models.backbones import backbone_normalization, build_backbone, feature_info
from upernet.models.familiarity import Familiarity
from upernet.recipe import ModelSpec, Recipe, load_recipe


def load_checkpoint(path: str | Path, recipe: Recipe | None = None) -> tuple[UPerNet, ModelCard]:
    """Return the model of a file, in eval mode on the CPU in float32, and its card.

    The file may be a native one, or UPerNet of InternImage, mmsegmentation (ResNet, Swin, ConvNeXt) or transformers
    (Swin, ConvNeXt), as safetensors or as `torch.save` wrote it. Files of other programs do not describe their network
    in full: what they leave open is taken from the shipped recipe of the same architecture. Their classes are those of
    ADE20K if there are 150, or those that the file names, or `class 0`, `class 1`, ... The model has an auxiliary head
    if the file has one.

    Args:
        path: the file; `find_checkpoint` returns it for a name, a folder or a reference to the Hub.
        recipe: what the model must be; needed for networks of other programs that have no name here.

    Raises:
        UpernetError: the file cannot be read (see `read_weights`), is of an unknown network, or does not fit `recipe`
            or its own description; the message then lists tensors with both shapes. Or its weights are for research
            only, and `UPERNET_NO_RESEARCH_WEIGHTS` is on.
    """
    file = read_named(path)
    info = _identify(file, recipe)
    refuse_research_weights(path, info.card.research_only)
    model = _instantiate(file, info)
    tensors = _match_tensors(file, info, model)
    _fill(model, tensors)
    return model.eval(), info.card


def load_model(name: str, checkpoint: str | Path | None = None) -> UPerNet:
    """Return the model of a recipe with its weights, in eval mode.

    Args:
        name: one of `upernet.list_models()`, or the path of a recipe.
        checkpoint: where to take the weights from, as `find_checkpoint` takes it; default: the weights inside the
            package, else the published ones, which are downloaded at first use.

    Raises:
        UpernetError: the name is unknown, there are no weights for it, or the weights do not fit.
    """
    recipe = load_recipe(name)
    path = find_checkpoint(checkpoint) if checkpoint else published_checkpoint(recipe.name)
    if path is None:
        raise missing_weights(name)
    return load_checkpoint(path, recipe)[0]


def initialize_model(model: UPerNet, path: str | Path) -> list[str]:
    """Copy into `model` every tensor of the file at `path` whose name and shape agree; the backbone must fit.

    The file may hold a backbone alone, as InternImage publishes it after training on ImageNet. If a native file has
    other classes than the model, classes of the same name keep their weights (see `transfer_classifiers`).

    Returns:
        The names of the model's tensors that keep their values, all or some of them (in the classifier of a head for
        another taxonomy, for instance, those of the classes that the file lacks).

    Raises:
        UpernetError: the file cannot be read, it has another backbone, or nothing in it fits. Or its weights are for
            research only, and `UPERNET_NO_RESEARCH_WEIGHTS` is on.
    """
    file = read_named(path)
    refuse_research_weights(path, file.is_native and read_info(file).card.research_only)
    own = model.state_dict()
    fitting = {key: value for key, value in file.tensors.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UpernetError(f"{path}: no tensor fits this model; take a checkpoint with the same backbone and decoder.")
    wrong = {
        key: shapes
        for key, shapes in compare_shapes(file.tensors, own).items()
        if key.startswith("backbone.") and key in own and not is_optional(key)
    }
    if wrong:
        raise shape_error(file.path, "the backbone", wrong, _guess_cause(file, model.spec, wrong))
    classifiers = transfer_classifiers(model, file.tensors, read_info(file).taxonomy) if file.is_native else {}
    model.load_state_dict(fitting | classifiers, strict=False)
    return [key for key in own if key not in fitting or key in classifiers]


def _identify(file: NamedWeights, recipe: Recipe | None) -> ModelInfo:
    """Return what the file holds: by its own description, by `recipe`, or by its tensors."""
    if file.is_native:
        info = read_info(file)
        if recipe is not None:
            _check_agreement(file, info, recipe)
        return info
    return identify_by_recipe(file, recipe) if recipe is not None else identify_by_tensors(file)


def _check_agreement(file: NamedWeights, info: ModelInfo, recipe: Recipe) -> None:
    """Raise UpernetError if the native `file`, described by `info`, is not a model of `recipe`."""
    wanted = info_of_recipe(recipe)
    is_same = same_classes(info.taxonomy, wanted.taxonomy)
    if not (is_same and same_architecture(wanted.spec, info.spec)):
        # An error about shapes says more. If all shapes fit, the architectures differ in no more than names.
        _match_tensors(file, wanted, _instantiate(file, wanted))
    if not is_same:
        raise UpernetError(
            f"{file.path}: of another taxonomy ({info.taxonomy.name}) than {recipe.name}; load it with upernet.load."
        )


def _instantiate(file: NamedWeights, info: ModelInfo) -> UPerNet:
    """Return the model on the meta device: whatever size a file claims, no memory is taken.

    It has an auxiliary head if both the file and the spec have one, and a familiarity if the file has one.
    """
    spec = info.spec
    if not any(map(is_auxiliary, file.tensors)):
        spec = spec.model_copy(update={"auxiliary_channels": None})
    try:
        with torch.device("meta"):
            model = UPerNet(spec, info.taxonomy)
            model.familiarity = Familiarity.like(file.tensors, feature_info(model.backbone).channels())
            return model
    except (UpernetError, RuntimeError, TypeError, MemoryError, OverflowError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UpernetError(f"{file.path}: {info.name} describes a network that cannot be built ({reason}).") from error


def _match_tensors(file: NamedWeights, info: ModelInfo, model: UPerNet) -> dict[str, Tensor]:
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
        raise shape_error(file.path, info.name, wrong, _guess_cause(file, info.spec, wrong))
    return tensors


def _fill(model: UPerNet, tensors: Mapping[str, Tensor]) -> None:
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


def _guess_cause(file: NamedWeights, spec: ModelSpec, wrong: Mapping[str, str]) -> str:
    """Return the likely reason why the file does not fit, in words; "" if it is not known."""
    backbone = read_info(file).spec.backbone if file.is_native else backbone_of(file.tensors)
    if backbone not in (None, spec.backbone) and any(key.startswith("backbone.") for key in wrong):
        return f"the file looks like {backbone}, this is {spec.backbone}"
    if all(".classifier." in key for key in wrong):
        return "another taxonomy: only classifiers differ"
    return ""
