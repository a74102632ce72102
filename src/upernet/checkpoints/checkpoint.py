"""The own checkpoint format: one safetensors file that carries weights, architecture, taxonomy and a card.

The header's metadata has one key, `upernet`: JSON with `format`, `model` (a ModelSpec), `taxonomy` and `card`.
Nothing in the file is code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from upernet.errors import UpernetError
from upernet.files import write_safetensors
from upernet.models import AUXILIARY, UPerNet, build_model
from upernet.recipe import ModelSpec, load_recipe
from upernet.taxonomy import Taxonomy

FORMAT = 1
SHIPPED = Path(__file__).parent / "shipped"


def save_checkpoint(path: str | Path, model: UPerNet, card: dict[str, Any], half: bool = False) -> None:
    """Write the weights of `model` (without the auxiliary head, which only training needs) and `card` to `path`.

    `half`: matrices and convolutions as float16; norms and biases stay float32.

    Raises:
        UpernetError: the file cannot be written; an earlier file at `path` stays as it was.
    """
    tensors = {}
    for key, value in model.state_dict().items():
        if not key.startswith(f"{AUXILIARY}."):
            value = value.detach().cpu().contiguous()
            tensors[key] = value.half() if half and value.is_floating_point() and value.ndim > 1 else value
    content = {
        "format": FORMAT,
        "model": model.spec.model_dump(mode="json"),
        "taxonomy": model.taxonomy.to_dict(),
        "card": card,
    }
    write_safetensors(path, tensors, {"upernet": json.dumps(content)})


def load_checkpoint(path: str | Path) -> tuple[UPerNet, dict[str, Any]]:
    """The model of an own-format file, in eval mode on the CPU in float32, and its card.

    Raises:
        UpernetError: the file is missing, cut off, not of this format, or its weights do not fit or are not finite.
    """
    content, tensors = _read(path)
    try:
        spec = ModelSpec.model_validate(content["model"])
        taxonomy = Taxonomy.from_dict(content["taxonomy"])
    except (KeyError, TypeError, ValidationError, UpernetError) as error:
        reason = str(error).splitlines()[0]
        raise UpernetError(f"{path}: its description of the model is not valid ({reason}).") from error
    model = UPerNet(spec, taxonomy)
    wanted = {key: value for key, value in model.state_dict().items() if not key.startswith(f"{AUXILIARY}.")}
    wrong = [
        f"{key}: file {_shape(tensors.get(key))} -> model {_shape(wanted.get(key))}"
        for key in sorted(wanted.keys() | tensors.keys())
        if _shape(tensors.get(key)) != _shape(wanted.get(key))
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UpernetError(f"{path}: its weights do not fit its own description: {'; '.join(wrong[:3])}{more}.")
    model.load_state_dict(tensors, strict=False)
    return model.eval(), content.get("card", {})


def initialize_model(model: UPerNet, path: str | Path) -> list[str]:
    """Copy into `model` every tensor of the checkpoint at `path` whose name and shape agree.

    Returns:
        The names of the model's tensors that keep their own values (a head of another taxonomy, for instance).

    Raises:
        UpernetError: the file cannot be read, or nothing in it fits.
    """
    _, tensors = _read(path)
    own = model.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UpernetError(f"{path}: no tensor fits this model; take a checkpoint with the same backbone and decoder.")
    model.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting]


def shipped_checkpoint(name: str) -> Path | None:
    """The weights of model `name` inside the package; None if they are not shipped."""
    path = SHIPPED / f"{name}.safetensors"
    return path if path.is_file() else None


def load_model(name: str, checkpoint: str | Path | None = None) -> UPerNet:
    """The model of a shipped recipe with its weights, in eval mode.

    Args:
        name: one of `upernet.list_models()`, or the path of a recipe.
        checkpoint: a file to take the weights from; default: the ones inside the package.

    Raises:
        UpernetError: unknown name, no weights for it, or the weights do not fit.
    """
    recipe = load_recipe(name)
    path = checkpoint or shipped_checkpoint(recipe.name)
    if path is None:
        raise UpernetError(
            f"no weights of {name} are shipped; give checkpoint=FILE, or train it with `upernet train {name}`."
        )
    model, _ = load_checkpoint(path)
    expected = build_model(recipe)
    same_classes = _classes(model.taxonomy) == _classes(expected.taxonomy)
    differing = [
        key
        for key, value in expected.state_dict().items()
        if not key.startswith(f"{AUXILIARY}.") and _shape(model.state_dict().get(key)) != _shape(value)
    ]
    if differing or not same_classes:
        what = f"first at {differing[0]}" if differing else f"in its taxonomy ({model.taxonomy.name})"
        raise UpernetError(f"{path}: the checkpoint is of another model than {name}, {what}; load it by upernet.load.")
    return model


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    path = Path(path)
    if not path.is_file():
        raise UpernetError(f"{path}: no such checkpoint file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        content = json.loads(metadata["upernet"])
    except KeyError:
        raise UpernetError(f"{path}: a safetensors file, but not one that upernet wrote.") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise UpernetError(f"{path}: not a readable safetensors file ({error}); fetch or write it again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UpernetError(f"{path}: written in a format that this version does not know; upgrade upernet.")
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UpernetError(f"{path}: tensor {key} has values that are not finite; write or train it again.")
    return content, tensors


def _classes(taxonomy: Taxonomy) -> object:
    """What the channels of the logits stand for; colours and descriptions may differ."""
    levels = {level.name: (level.names, level.background) for level in taxonomy.levels.values()}
    return levels, taxonomy.part_groups


def _shape(tensor: torch.Tensor | None) -> str:
    return "-" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
