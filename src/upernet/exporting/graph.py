"""The graph of a network, from uint8 images to named outputs, and its trace for all sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from upernet.errors import UpernetError, shorten
from upernet.exporting.operators import Dcnv3, Decoder, exportable
from upernet.inference.runtimes import INPUT, Output, output_names
from upernet.models import UPerNet
from upernet.models.familiarity import FAMILIARITY
from upernet.models.fold import folded
from upernet.taxonomy import LEVEL_KINDS

EXAMPLE = 2, 3, 132, 164
"""Shape of the images that a network is traced with; no two sides of its maps agree by accident."""
STANDARD = ("aten", "onnx_symbolic")
"""Namespaces of the operators that a traced program may have."""


class Graph(nn.Module):
    """Preprocessing, network and outputs: uint8 N x 3 x H x W in RGB -> the outputs `names`, in order.

    Args:
        model: The network, which is not changed; the graph shares its weights, unless `half`, and is in eval mode.
        output: "logits": logits per level, N x K x H/4 x W/4, or N x K for levels with one label per image. "labels":
            int32 N x H x W labels and float32 N x H x W probabilities per level, or N x K probabilities. Both are
            followed by the familiarity, N values, if the model has it.
        temperatures: Level -> divisor of the logits before a softmax.
        half: Compute in float16, except for the normalization, the positions that DCNv3 samples, the familiarity and
            the outputs.
    """

    def __init__(
        self, model: UPerNet, output: Output, temperatures: Mapping[str, float] | None = None, half: bool = False
    ):
        super().__init__()
        was_training = model.training
        prepared = folded(model)
        constant = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in prepared.parameters()}
        shared = constant | {id(buffer): buffer for buffer in prepared.buffers()}
        self.network = copy.deepcopy(prepared, {} if half else shared)  # pyright: ignore[reportArgumentType]
        model.train(was_training)
        self.network.auxiliary = None
        self.preprocess = self.network.preprocess
        self.output: Output = output
        self.temperatures = dict(temperatures or {})
        self.dtype = torch.float16 if half else torch.float32
        if half:
            self.network.half()
            self.preprocess = copy.deepcopy(model.preprocess)
            self.network.familiarity = copy.deepcopy(model.familiarity)
        self.wanted = (*model.levels, *([] if model.familiarity is None else [FAMILIARITY]))
        self.eval()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs: those of the levels, and LEVEL_confidence after each label map."""
        return output_names(self.network.taxonomy, self.output, FAMILIARITY in self.wanted)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs."""
        found = self.network(self.preprocess(image).to(self.dtype), self.wanted)
        outputs = {name: found[name].float() for name in self.wanted}
        if self.output == "labels":
            outputs = self._labels(outputs, image)
        return tuple(outputs[name] for name in self.names)

    def _labels(self, outputs: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
        """Return label maps at the size of `image` with their probabilities, parts within the objects that own them."""
        taxonomy = self.network.taxonomy
        found = dict(outputs)
        for level in taxonomy.levels:
            logits = outputs[level] / self.temperatures.get(level, 1)
            if not LEVEL_KINDS[level].dense:
                found[level] = logits.softmax(1)
                continue
            resized = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
            owner = LEVEL_KINDS[level].owned_by
            if owner is None:
                labels, confidence = _most_probable(resized)
            else:
                owners, confidence = found[owner], found[f"{owner}_confidence"]
                labels = torch.zeros_like(owners)
                for group in taxonomy.part_groups:
                    own, probability = _most_probable(resized[:, group.channels])
                    parts = torch.tensor(group.parts, dtype=torch.int32)
                    is_owned = owners == group.owner
                    labels = torch.where(is_owned, parts[own.long()], labels)
                    confidence = torch.where(is_owned, probability, confidence)
            found[level], found[f"{level}_confidence"] = labels, confidence
        return found


def _most_probable(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labels of the largest of N x K x H x W logits, int32 N x H x W, and their probabilities."""
    largest, labels = logits.max(1)
    return labels.to(torch.int32), 1 / (logits - largest[:, None]).exp().sum(1)


def trace(graph: Graph, dcnv3: Dcnv3 = "gridsample", decoder: Decoder = "fast") -> ExportedProgram:
    """Return the program of `graph` for images of every number and size.

    Raises:
        UpernetError: torch cannot trace the network for all sizes, or an operator has no standard counterpart.
    """
    backbone = graph.network.spec.backbone
    image = torch.zeros(EXAMPLE, dtype=torch.uint8)
    sizes = {INPUT: {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    try:
        with torch.no_grad(), exportable(dcnv3, decoder):
            program = torch.export.export(graph, (image,), dynamic_shapes=sizes, strict=False)
    except Exception as error:  # torch raises many types, of its own and of the network's code
        reason = shorten(str(error).strip().partition("\n")[0], 200).strip("'\"").rstrip(".")
        raise UpernetError(
            f"backbone {backbone}: torch.export cannot trace it for images of all sizes ({reason}); "
            "choose another backbone."
        ) from error
    if unknown := sorted(nonstandard_operators(program)):
        raise UpernetError(f"backbone {backbone}: {', '.join(unknown)} has no export; choose another backbone.")
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths and lines of code on this computer
    # The sizes that torch allows, as text that the exporter to ONNX parses again for each of its passes.
    cast(Any, program)._guards_code = []
    return program


def nonstandard_operators(program: ExportedProgram) -> set[str]:
    """Return the operators of a program that torch itself does not have."""
    operators = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return {str(operator) for operator in operators if getattr(operator, "namespace", STANDARD[0]) not in STANDARD}
