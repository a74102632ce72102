"""Tests of upernet.models.upernet: how a network is created."""

from typing import Any

import numpy as np
import pytest
import torch

import upernet.models.upernet
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import ModelSpec
from upernet.taxonomy import Taxonomy, load_taxonomy


def test_a_network_of_a_backbone_and_a_number_of_classes() -> None:
    model = UPerNet(backbone="convnext_atto", classes=21, decoder_channels=16).eval()
    assert model.spec == ModelSpec(backbone="convnext_atto", decoder_channels=16)
    with torch.inference_mode():
        logits = model(model.preprocess(torch.zeros(1, 3, 65, 96, dtype=torch.uint8)))
    assert logits["object"].shape == (1, 21, 16, 24)
    assert model.taxonomy == Taxonomy.of_objects(21)


@pytest.mark.parametrize(("training", "sizes"), [(False, [2, 2, 1]), (True, [5])])
def test_a_large_batch_goes_through_in_parts_unless_its_statistics_count(
    training: bool, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = UPerNet("resnet18", load_taxonomy("everyday"), decoder_channels=8, dropout=0.0).train(training)
    images, seen = torch.randn(5, 3, 64, 96), list[int]()
    with torch.no_grad():
        expected = model(images)
        monkeypatch.setattr(upernet.models.upernet, "PIXELS_PER_PASS", 2 * 64 * 96)
        model.backbone.register_forward_pre_hook(lambda module, arguments: seen.append(len(arguments[0])))
        found = model(images)
    assert seen == sizes and found.keys() == expected.keys()
    for level, logits in expected.items():
        torch.testing.assert_close(found[level], logits, atol=1e-4, rtol=1e-4)


def test_a_spec_and_its_settings_are_the_same_network() -> None:
    taxonomy = load_taxonomy("everyday")
    torch.manual_seed(0)
    first = UPerNet("resnet18", taxonomy, decoder_channels=8)
    torch.manual_seed(0)
    second = UPerNet(ModelSpec(backbone="resnet18", decoder_channels=8), taxonomy)
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_classes_and_taxonomies_as_people_have_them() -> None:
    assert UPerNet("resnet18", "camvid", decoder_channels=8).taxonomy == load_taxonomy("camvid")
    for classes, number in ((np.int64(3), 3), (np.array(["road", "car"]), 2), (("road", "car"), 2)):
        model = UPerNet("resnet18", classes=classes, decoder_channels=8)  # pyright: ignore[reportArgumentType]
        assert model.taxonomy.level("object").num_classes == number


@pytest.mark.parametrize("classes", ["road", 2.5, True])
def test_what_is_no_list_of_classes(classes: Any) -> None:
    with pytest.raises(UpernetError, match="give a list of names, or the number of classes"):
        UPerNet("resnet18", classes=classes)


def test_labels_of_all_classes_fit_into_int16() -> None:
    with pytest.raises(UpernetError, match="at most 32,767 classes"):
        UPerNet("resnet18", classes=10**12)


def test_mistakes_say_what_to_give() -> None:
    with pytest.raises(UpernetError, match="needs a taxonomy or classes; give one of them"):
        UPerNet("resnet18")
    with pytest.raises(UpernetError, match="needs a taxonomy or classes; give one of them"):
        UPerNet("resnet18", load_taxonomy("camvid"), classes=3)
    with pytest.raises(UpernetError, match=r"decoder_chanels: unknown key .did you mean 'decoder_channels'"):
        UPerNet("resnet18", classes=3, decoder_chanels=8)
    with pytest.raises(UpernetError, match="settings beside a whole ModelSpec"):
        UPerNet(ModelSpec(backbone="resnet18"), classes=3, dropout=0.2)
    with pytest.raises(UpernetError, match="unknown backbone 'resnet1800'"):
        UPerNet("resnet1800", classes=3)
    with pytest.raises(UpernetError, match="classes"):
        UPerNet("resnet18", classes=0)
