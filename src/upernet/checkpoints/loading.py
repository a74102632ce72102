"""Checkpoints: from a file to a model, and back in the own format.

The way of every file: read it (`weights.py`), rename its tensors (`formats.py`), say what network it is (here), compare
shapes (`fit.py`), load.

The own format is one safetensors file that carries weights, architecture, taxonomy and a card. The header's metadata
has one key, `upernet`: JSON with `format`, `model` (a ModelSpec), `taxonomy` and `card`. Nothing in the file is code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from upernet.checkpoints.shapes import differences, mismatch
from upernet.checkpoints.architecture import backbone_of, decoder_of, num_classes_of
from upernet.checkpoints.formats import OWN, NamedWeights, read_named
from upernet.errors import UpernetError
from upernet.files import write_safetensors
from upernet.models import AUXILIARY, Preprocess, UPerNet, list_models
from upernet.models.backbones import backbone_normalization, create_backbone
from upernet.recipe import ModelSpec, Recipe, load_recipe
from upernet.taxonomy import Taxonomy, load_taxonomy

FORMAT = 1
SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Description:
    """What network a checkpoint is."""

    name: str
    """For errors."""
    spec: ModelSpec
    taxonomy: Taxonomy
    card: dict[str, Any]


def save_checkpoint(
    path: str | Path, model: UPerNet, card: dict[str, Any], half: bool = False, auxiliary: bool = False
) -> None:
    """Write the weights of `model` and `card` to `path`.

    Args:
        half: matrices and convolutions as float16; norms and biases stay float32.
        auxiliary: with the auxiliary head, which only training needs.

    Raises:
        UpernetError: the file cannot be written; an earlier file at `path` stays as it was.
    """
    tensors = {}
    for key, value in model.state_dict().items():
        if auxiliary or not _is_auxiliary(key):
            value = value.detach().cpu().contiguous()
            tensors[key] = value.half() if half and value.is_floating_point() and value.ndim > 1 else value
    content = {
        "format": FORMAT,
        "model": model.spec.model_dump(mode="json"),
        "taxonomy": model.taxonomy.to_dict(),
        "card": card,
    }
    write_safetensors(path, tensors, {OWN: json.dumps(content)})


def load_checkpoint(path: str | Path, recipe: Recipe | None = None) -> tuple[UPerNet, dict[str, Any]]:
    """The model of a file, in eval mode on the CPU in float32, and its card.

    The file may be an own one, or UPerNet of InternImage, mmsegmentation (ResNet, Swin, ConvNeXt) or transformers
    (Swin, ConvNeXt), as safetensors or as `torch.save` wrote it. A foreign file does not say all of its network: what
    it does not say is taken from the shipped recipe of the same architecture. Its classes are those of ADE20K if there
    are 150, or those that it names, or `class 0`, `class 1`, ... The model has an auxiliary head if the file has one.

    Args:
        recipe: what the model must be; needed for foreign files of networks that have no name here.

    Raises:
        UpernetError: the file cannot be read (see `read_weights`), is of an unknown network, or does not fit `recipe`
            or what it says of itself; the message then lists tensors with both shapes.
    """
    file = read_named(path)
    own = _own_description(file) if file.origin == OWN else None
    description = _agreed(file, own, recipe) if recipe else own or _inferred(file)
    return _filled(file, description), description.card


def load_model(name: str, checkpoint: str | Path | None = None) -> UPerNet:
    """The model of a shipped recipe with its weights, in eval mode.

    Args:
        name: one of `upernet.list_models()`, or the path of a recipe.
        checkpoint: a file to take the weights from, of any format that `load_checkpoint` reads; default: the one inside
            the package, else the published one, which is downloaded at first use.

    Raises:
        UpernetError: unknown name, no weights for it, or the weights do not fit.
    """
    recipe = load_recipe(name)
    path = checkpoint or published_checkpoint(recipe.name)
    if path is None:
        raise UpernetError(
            f"no weights of {name} are shipped or published; give checkpoint=FILE, or train it with "
            f"`upernet train {name}`."
        )
    return load_checkpoint(path, recipe)[0]


def initialize_model(model: UPerNet, path: str | Path) -> list[str]:
    """Copy into `model` every tensor of the checkpoint at `path` whose name and shape agree; the backbone must fit.

    The file may also hold a backbone alone, as published by InternImage after training on ImageNet.

    Returns:
        The names of the model's tensors that keep their own values (a head of another taxonomy, for instance).

    Raises:
        UpernetError: the file cannot be read, its backbone is another one, or nothing in it fits.
    """
    file = read_named(path)
    own = model.state_dict()
    fitting = {key: value for key, value in file.tensors.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UpernetError(f"{path}: no tensor fits this model; take a checkpoint with the same backbone and decoder.")
    wrong = {
        key: shapes
        for key, shapes in differences(file.tensors, own).items()
        if key.startswith("backbone.") and key in own and not _may_be_missing(key)
    }
    if wrong:
        raise mismatch(file.path, "the backbone", wrong, _cause(file, model.spec, wrong))
    model.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def shipped_checkpoint(name: str) -> Path | None:
    """The weights of model `name` inside the package; None if they are not shipped."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def published_checkpoint(name: str) -> Path | None:
    """The weights of model `name`: inside the package, or the zoo's, downloaded at first use; None: there are none.

    Raises:
        UpernetError: the download fails.
    """
    from upernet.checkpoints.download import fetch
    from upernet.checkpoints.zoo import zoo_entry

    entry = zoo_entry(name)
    return shipped_checkpoint(name) or (fetch(entry) if entry else None)


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint in a folder: of a training run (`model.safetensors`), of transformers, or the only one there.

    Raises:
        UpernetError: there is none, or there are several.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".pth", ".pt", ".bin"))
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files) or "none"
    raise UpernetError(f"{folder}: a directory must hold one checkpoint (found: {names}); give the file itself.")


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """The card of a model of `recipe`."""
    return {"name": recipe.name, "description": recipe.description, "short_side": recipe.parse_short_side}


def _own_description(file: NamedWeights) -> Description:
    try:
        content = json.loads(file.metadata[OWN])
        if content["format"] != FORMAT:
            raise UpernetError("a format that this version does not know: upgrade upernet")
        spec = ModelSpec.model_validate(content["model"])
        taxonomy = Taxonomy.from_dict(content["taxonomy"])
        card = dict(content.get("card") or {})
    except (KeyError, TypeError, ValueError, RecursionError, UpernetError) as error:
        reason = str(error).splitlines()[0]
        raise UpernetError(f"{file.path}: its description of the model is not valid ({reason}).") from error
    return Description("its own description", spec, taxonomy, card)


def _agreed(file: NamedWeights, own: Description | None, recipe: Recipe) -> Description:
    """What an own file says of itself, if that is a model of `recipe`; what `recipe` says, for a foreign one."""
    card = describe_recipe(recipe) | ({} if own else {"origin": file.origin})
    asked = Description(recipe.name, recipe.model, load_taxonomy(recipe.taxonomy), card)
    if own is None:
        names = file.class_names
        if len(names) == num_classes_of(file.tensors) and _disagree(names, asked.taxonomy):
            raise UpernetError(
                f"{file.path}: of another taxonomy than {recipe.name}: its classes are {', '.join(names[:3])}, ...; "
                "load it without naming a model."
            )
        return asked
    _on_meta(file, asked)
    if _classes(own.taxonomy) != _classes(asked.taxonomy):
        raise UpernetError(
            f"{file.path}: of another taxonomy ({own.taxonomy.name}) than {recipe.name}; load it by upernet.load."
        )
    return own


def _inferred(file: NamedWeights) -> Description:
    """What the tensors of a foreign file say."""
    backbone, count = backbone_of(file.tensors), num_classes_of(file.tensors)
    if not count:
        raise UpernetError(
            f"{file.path}: a backbone alone ({backbone}), which knows no classes; name it as backbone_weights in a "
            "recipe to train a model from it."
        )
    if not {"ppm.bottleneck.0.weight", "fpn.output.0.0.weight", "fusion.conv.0.weight"} <= file.tensors.keys():
        raise UpernetError(f"{file.path}: a network of {file.origin} whose decode head is not UPerNet's.")
    if backbone is None:
        raise UpernetError(
            f"{file.path}: UPerNet with a backbone that has no name here; give a recipe that describes it."
        )
    try:
        spec = ModelSpec.model_validate(
            {"backbone": backbone, "feature_norms": "backbone.norms.0.weight" in file.tensors}
            | decoder_of(file.tensors)
        )
    except ValidationError as error:
        raise UpernetError(f"{file.path}: tensors without values, of which no network is made.") from error
    taxonomy = _taxonomy_of(file, count)
    recipe = shipped_recipe(spec, taxonomy)
    if recipe is not None:
        card = describe_recipe(recipe) | {"origin": file.origin}
        return Description(recipe.name, recipe.model, taxonomy, card)
    name = f"UPerNet with {backbone}"
    return Description(name, spec, taxonomy, {"name": file.path.stem, "description": name, "origin": file.origin})


def shipped_recipe(spec: ModelSpec, taxonomy: Taxonomy) -> Recipe | None:
    """The shipped recipe with this architecture and these classes, if there is one."""
    for recipe in map(load_recipe, list_models()):
        same_network = _architecture(recipe.model, spec) == _architecture(spec, spec)
        if same_network and _classes(load_taxonomy(recipe.taxonomy)) == _classes(taxonomy):
            return recipe
    return None


def _architecture(spec: ModelSpec, like: ModelSpec) -> dict[str, Any]:
    """What of `spec` can be seen in weights; without the auxiliary head if `like` has none."""
    unseen = {"backbone_weights", "drop_path", "dropout"} | (
        set() if like.auxiliary_channels else {"auxiliary_channels"}
    )
    return spec.model_dump(exclude=unseen)


def _taxonomy_of(file: NamedWeights, count: int) -> Taxonomy:
    names: Sequence[str] = file.class_names if len(file.class_names) == count else ()
    ade20k = load_taxonomy("ade20k150")
    if count == 150 and not _disagree(names, ade20k):
        return ade20k
    classes = [{"name": name} for name in names or [f"class {label}" for label in range(count)]]
    content = {"name": file.path.stem, "description": f"Classes of {file.path.name}."}
    return Taxonomy.from_dict(content | {"levels": {"object": {"classes": classes}}})


def _disagree(names: Sequence[str], taxonomy: Taxonomy) -> bool:
    """Whether these are other classes: programs write some of a data set's names in other words, but not most."""
    own = taxonomy.levels["object"].names if "object" in taxonomy.levels else ()
    same = sum(a == b for a, b in zip(names, own, strict=False))
    return len(names) == len(own) and 2 * same <= len(own)


def _filled(file: NamedWeights, description: Description) -> UPerNet:
    model, tensors = _on_meta(file, description)
    own = model.state_dict()
    # Copies: a model must not change when its file does.
    model.load_state_dict({key: tensors[key].to(own[key].dtype, copy=True) for key in own}, assign=True)
    model.preprocess = Preprocess(*backbone_normalization(model.spec.backbone))
    _compute_buffers(model)
    return model.eval()


def _on_meta(file: NamedWeights, description: Description) -> tuple[UPerNet, dict[str, Tensor]]:
    """The model without memory for its tensors, which the file's tensors fit, and those.

    What a file claims is compared with what it holds before anything of the claimed size is made.
    """
    spec, tensors = description.spec, dict(file.tensors)
    if not any(map(_is_auxiliary, tensors)):
        spec = spec.model_copy(update={"auxiliary_channels": None})
    elif spec.auxiliary_channels is None:
        tensors = {key: value for key, value in tensors.items() if not _is_auxiliary(key)}
    try:
        with torch.device("meta"):
            model = UPerNet(spec, description.taxonomy)
    except (UpernetError, RuntimeError, TypeError, MemoryError, OverflowError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UpernetError(f"{file.path}: {description.name} is of no network that can be made ({reason}).") from error
    own = model.state_dict()
    for key, value in own.items():
        if _is_counter(key) and (key not in tensors or tensors[key].numel() == 1):
            tensors[key] = tensors.get(key, torch.zeros(1)).reshape(value.shape)
    if wrong := differences(tensors, own):
        raise mismatch(file.path, description.name, wrong, _cause(file, spec, wrong))
    return model, tensors


def _compute_buffers(model: UPerNet) -> None:
    """Buffers of timm's backbones that are no part of their weights (tables of window positions, for instance)."""
    waiting = [name for name, buffer in model.backbone.named_buffers() if buffer.is_meta]
    if waiting:
        spec = model.spec
        computed = dict(create_backbone(spec.backbone, feature_norms=spec.feature_norms).named_buffers())
        for name in waiting:
            module, _, last = name.rpartition(".")
            setattr(model.backbone.get_submodule(module), last, computed[name])


def _cause(file: NamedWeights, spec: ModelSpec, wrong: Mapping[str, str]) -> str:
    """The likely reason why the file does not fit, in words; empty: not known."""
    backbone = _own_description(file).spec.backbone if file.origin == OWN else backbone_of(file.tensors)
    if backbone not in (None, spec.backbone) and any(key.startswith("backbone.") for key in wrong):
        return f"the file looks like {backbone}, this is {spec.backbone}"
    if all(".classifier." in key for key in wrong):
        return "another taxonomy: only classifiers differ"
    return ""


def _may_be_missing(key: str) -> bool:
    """In a backbone that learnt on ImageNet: the norms of features, which only segmentation has."""
    return _is_counter(key) or key.startswith("backbone.norms.")


def _is_counter(key: str) -> bool:
    """Of a batch norm's batches, which nothing here reads; old files do not have it."""
    return key.endswith(".num_batches_tracked")


def _is_auxiliary(key: str) -> bool:
    return key.startswith(f"{AUXILIARY}.")


def _classes(taxonomy: Taxonomy) -> object:
    """What the channels of the logits stand for; colours and descriptions may differ."""
    levels = {level.name: (level.names, level.background) for level in taxonomy.levels.values()}
    return levels, taxonomy.part_groups
