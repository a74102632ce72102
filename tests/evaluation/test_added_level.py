"""A dense level that is added to `LEVEL_KINDS` is decoded, scored and calibrated like `object`."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from upernet.data.sample import Sample
from upernet.decoding import label_maps
from upernet.evaluation import Scores, TestTimeAugmentation
from upernet.evaluation.calibration import shown_labels
from upernet.evaluation.tta import photo_outputs
from upernet.models import UPerNet
from upernet.recipe import MaskFolderSpec
from upernet.taxonomy import LEVEL_KINDS, Level, LevelKind, Taxonomy


@pytest.fixture
def taxonomy(monkeypatch: pytest.MonkeyPatch) -> Taxonomy:
    kind = LevelKind("affordance", dense=True, reads="fused", owned_by=None, loss_weight=1.0)
    monkeypatch.setitem(LEVEL_KINDS, "affordance", kind)
    level = Level("affordance", ("sit", "grasp", "walk"), ((0, 0, 0),) * 3, background=False)
    return Taxonomy("affordances", "What can be done with a thing.", {"affordance": level})


class Network(torch.nn.Module):
    """The three classes are red, green and blue."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.taxonomy = taxonomy

    def preprocess(self, image: Tensor) -> Tensor:
        return image.float() / 255

    def forward(self, images: Tensor, levels: tuple[str, ...]) -> dict[str, Tensor]:
        return dict.fromkeys(levels, 9 * images[..., ::4, ::4])


@pytest.mark.parametrize("tta", [TestTimeAugmentation(), TestTimeAugmentation((1.0, 1.5), flip=True, window=32)])
def test_scores_of_an_added_level(taxonomy: Taxonomy, tta: TestTimeAugmentation) -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[2] = 255
    truth = torch.full((40, 40), 2, dtype=torch.int16)
    truth[:10] = 1
    sample = Sample(tv_tensors.Image(image), {"affordance": tv_tensors.Mask(truth)})
    spec = MaskFolderSpec.model_validate({"kind": "mask_folder", "path": "x", "level": "object"})
    outputs, via_sizes = photo_outputs(cast(UPerNet, Network(taxonomy)), sample, spec, "cpu", tta)
    scores = Scores(taxonomy)
    scores.update(outputs, sample, via_sizes=via_sizes)
    result = scores.result()["affordance"].to_dict()
    assert result["pixel_accuracy"] == 0.75 and result["per_class"]["walk"]["iou"] == 0.75


def test_labels_of_an_added_level(taxonomy: Taxonomy) -> None:
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found, shown = shown_labels({"affordance": logits[None]}, "affordance", taxonomy)
    assert torch.equal(found.labels, logits.argmax(0)) and shown.all()
    assert (label_maps({"affordance": torch.ones(3, 8, 8)}, (32, 32), (40, 50))["affordance"][0] == 0).all()
