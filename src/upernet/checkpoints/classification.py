"""InternImage for the classification of photos, with the published weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from upernet.checkpoints.formats import rename_weights
from upernet.checkpoints.reading import read_weights
from upernet.checkpoints.shapes import compare_shapes, is_counter, shape_error
from upernet.checkpoints.zoo import known_entry
from upernet.errors import UpernetError
from upernet.models.classifier import InternImageClassifier
from upernet.models.internimage import VARIANTS, create_internimage
from upernet.models.protocol import OptionValue

HEADS = re.compile(r"(conv_head|head|dcnv3_head_x[34]|clip_projector|fc_norm)\.")
"""Beginnings of the published names of what is not the backbone."""
IMAGENET_CLASSES = {1000: "imagenet-1k", 21841: "imagenet-22k"}
"""Number of classes -> timm's name of the part of ImageNet."""


def create_classifier(
    name: str,
    pretrained: bool | str | Path | None = False,
    *,
    classes: int | Sequence[str] | None = None,
    options: Mapping[str, OptionValue] | None = None,
    drop_path: float = 0.0,
) -> InternImageClassifier:
    """Return InternImage as a classifier of photos, in training mode.

    Args:
        name: `internimage_{t,s,b,l,xl,h}`.
        pretrained: True loads the published weights for ImageNet-1k, downloaded at first use. A string or path is a
            published file of the same network, of ImageNet-1k or ImageNet-22k. False or None: all weights are random.
        classes: The names of the classes, or how many there are. Default: those of the file, or of ImageNet-1k. If the
            file has another number of classes, the last layer starts from random weights.
        options: Values that replace those of the variant `name` (the fields of `InternImageSpec`).
        drop_path: Rate of stochastic depth at the last block; it rises linearly from 0.

    Raises:
        UpernetError: The name is unknown, an option does not fit, there are no such weights, they are those of a
            backbone alone or of another network, or they are refused (`terms.py`).

    Example:
        >>> classifier = upernet.create_classifier("internimage_t").eval()
        >>> classifier.classes[1], classifier(torch.zeros(1, 3, 224, 224)).shape
        ('goldfish, Carassius auratus', torch.Size([1, 1000]))
    """
    if name not in VARIANTS:
        raise UpernetError(f"unknown classifier {name!r}; choose one of {', '.join(VARIANTS)}.")
    published = known_entry(name).classifier
    image_size = 224 if published is None else published.image_size
    if pretrained is None or pretrained is False:
        backbone = create_internimage(name, options or {}, drop_path)
        return InternImageClassifier(backbone, _class_names(classes, 1000), image_size)
    path = _published_file(name) if pretrained is True else Path(pretrained)
    tensors = _read(path)
    found = tensors["head.weight"].shape[0] if tensors["head.weight"].ndim else 0
    backbone = create_internimage(name, options or {}, drop_path)
    classifier = InternImageClassifier(backbone, _class_names(classes, found), image_size)
    own = classifier.state_dict()
    if len(classifier.classes) != found:
        tensors = {key: own[key] if key.startswith("head.") else value for key, value in tensors.items()}
    tensors |= {key: value for key, value in own.items() if is_counter(key) and key not in tensors}
    if wrong := compare_shapes(tensors, own):
        raise shape_error(path, f"the classifier {name}", wrong)
    classifier.load_state_dict(tensors)
    return classifier


def _published_file(name: str) -> Path:
    from upernet.checkpoints.fetching import fetch  # imported here because the Hub's client is slow to import

    return fetch(known_entry(name).as_classifier())


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a published classifier under the names of `InternImageClassifier`.

    Raises:
        UpernetError: The file cannot be read, or is not one of a classifier.
    """
    weights = read_weights(path)
    named = rename_weights(weights)
    heads = {key: value for key, value in weights.tensors.items() if HEADS.match(key)}
    if named is None or named.is_native or "head.weight" not in heads:
        raise UpernetError(
            f"{path}: has no classifier of InternImage; give a published file, such as internimage_t_1k_224.pth."
        )
    return heads | {key: value for key, value in named.tensors.items() if key.startswith("backbone.")}


def _class_names(classes: int | Sequence[str] | None, default: int) -> tuple[str, ...]:
    """Return names of classes: those that are given, or ImageNet's if there are as many, else `class 0`, ..."""
    if classes is not None and not isinstance(classes, int):
        names = tuple(classes)
        if isinstance(classes, str) or not names:
            raise UpernetError(f"classes {classes!r}: give the names of the classes in a list, or how many there are.")
        return names
    number = default if classes is None else classes
    if number < 1:
        raise UpernetError(f"classes {number}: give 1 or more.")
    if classes is None and number in IMAGENET_CLASSES:
        from timm.data import ImageNetInfo  # pyright: ignore[reportPrivateImportUsage]

        info = ImageNetInfo(IMAGENET_CLASSES[number])
        return tuple(info.index_to_description(index) for index in range(number))
    return tuple(f"class {index}" for index in range(number))
