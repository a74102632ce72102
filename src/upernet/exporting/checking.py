"""Comparison of an exported network with the model that it was exported from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from upernet.errors import UpernetError
from upernet.exporting.graph import Graph
from upernet.inference.runtimes import ExportedNetwork
from upernet.models.familiarity import FAMILIARITY
from upernet.ops import resize

SIZES = (1, 3, 128, 160), (2, 3, 97, 75)
"""Images that an export is checked with: none of them is of the size that it was traced with, and one has odd sides."""
TOLERANCE = 1e-4
"""Largest error of float32 logits that is accepted, in standard deviations of the logits."""
PROBABILITY_TOLERANCE = 1e-3
"""Largest error of a probability or the familiarity that is accepted in float32."""
SAME_LABELS = 0.999
"""Smallest share of pixels with the same label that is accepted in float32."""


def sample_images() -> list[Tensor]:
    """Return images of `SIZES` with large and small structures: uint8 N x 3 x H x W."""
    generator = torch.Generator().manual_seed(0)
    images: list[Tensor] = []
    for n, channels, height, width in SIZES:
        shapes = torch.rand(n, channels, 5, 6, generator=generator)
        noise = torch.rand(n, channels, height, width, generator=generator)
        images.append((255 * (0.8 * resize(shapes, (height, width)) + 0.2 * noise)).to(torch.uint8))
    return images


@torch.inference_mode()
def errors(reference: Graph, network: ExportedNetwork, images: Iterable[Tensor]) -> dict[str, float]:
    """Return the largest error of each output over all images.

    Args:
        reference: the graph of the model, computed by this package's own kernels.
        network: the exported network.
        images: uint8 N x 3 x H x W each.

    Returns:
        Output -> error: of logits, in standard deviations of the logits; of label maps, the share of pixels with
        another label; of everything else, the difference.
    """
    largest: dict[str, float] = {}
    for image in images:
        for name, expected, found in _outputs(reference, network, image):
            if not expected.is_floating_point():
                error = (found != expected).float().mean()
            else:
                error = (found - expected).abs().max()
                if reference.output == "logits" and name != FAMILIARITY:
                    error = error / expected.std()
            largest[name] = max(largest.get(name, 0.0), float(error.nan_to_num(nan=torch.inf)))
    return largest


def check_errors(found: Mapping[str, float], output: str) -> None:
    """Refuse an export in float32 whose outputs differ from the model's.

    Args:
        found: what `errors` returns.
        output: "logits" or "labels".

    Raises:
        UpernetError: An error exceeds its tolerance.
    """
    labels = {name.removesuffix("_confidence") for name in found if name.endswith("_confidence")}
    for name, error in found.items():
        if output == "logits" and name != FAMILIARITY:
            limit, unit = TOLERANCE, " of the logits' spread"
        elif name in labels:
            limit, unit = 1 - SAME_LABELS, " of the pixels"
        else:
            limit, unit = PROBABILITY_TOLERANCE, ""
        if not error <= limit:
            raise UpernetError(
                f"{name}: the exported network differs from the model by {error:.1e}{unit}, more than {limit:.0e}; "
                "nothing was written (try another --opset or --dcnv3, or --no-verify)."
            )


@torch.inference_mode()
def agreement(reference: Graph, network: ExportedNetwork, images: Iterable[Tensor]) -> dict[str, float]:
    """Return the share of pixels (or of images) with the same class in the exported network, per level.

    Raises:
        UpernetError: The exported network computes numbers that are not finite.
    """
    same: dict[str, list[int]] = {}
    for image in images:
        for name, expected, found in _outputs(reference, network, image):
            if not found.isfinite().all():
                raise UpernetError(
                    f"{name}: the exported network computes numbers that are not finite; choose another precision."
                )
            if name not in reference.network.levels:
                continue
            if expected.is_floating_point():
                expected, found = expected.argmax(1), found.argmax(1)
            counts = same.setdefault(name, [0, 0])
            counts[0] += int((expected == found).sum())
            counts[1] += expected.numel()
    return {level: agreeing / total for level, (agreeing, total) in same.items()}


def _outputs(reference: Graph, network: ExportedNetwork, image: Tensor) -> Iterable[tuple[str, Tensor, Tensor]]:
    found = network(image, reference.names)
    for name, expected in zip(reference.names, reference(image), strict=True):
        if found[name].shape != expected.shape:
            raise UpernetError(
                f"{name}: the exported network returns {tuple(found[name].shape)} for images of {tuple(image.shape)}, "
                f"and the model {tuple(expected.shape)}; nothing was written."
            )
        yield name, expected, found[name]
