"""Tests of upernet.evaluation against the released evaluation of Unified Perceptual Parsing, and of its benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.shared import REFERENCE, needs_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from upernet.data.sample import Sample
from upernet.evaluation import Scores
from upernet.evaluation.results import LevelMetrics
from upernet.recipe import MetricRules
from upernet.taxonomy import IGNORE, Taxonomy, load_taxonomy

GOLDEN = REFERENCE / "golden" / "upp_metrics.npz"
BRODEN = load_taxonomy("broden")


def one_hot(labels: np.ndarray, classes: int) -> torch.Tensor:
    """Return logits 1 x K x H x W whose most probable labels these are."""
    return F.one_hot(torch.from_numpy(labels).long(), classes).permute(2, 0, 1)[None].float()


def global_parts(facts: dict[str, np.ndarray]) -> np.ndarray:
    """Return the parts of a photo as labels of the level: unknown in objects that have no part annotated."""
    objects, local = facts["seg_object"], facts["seg_part"]
    parts = np.full(local.shape, IGNORE, np.int16)
    for number, group in enumerate(BRODEN.part_groups):
        inside = objects == group.owner
        # One part that fills the photo is annotated, although the released code does not count it.
        if facts["valid_part"][number] or local[inside].any():
            parts[inside] = np.array(group.parts)[local[inside]]
    return parts


def photos(golden: dict[str, np.ndarray]) -> Iterator[tuple[dict[str, torch.Tensor], Sample]]:
    """Yield the outputs of a network and the annotations of each photo of the golden file."""
    for number in range(9):
        facts = {key.partition("/")[2]: value for key, value in golden.items() if key.startswith(f"img{number}/")}
        outputs = {
            "object": one_hot(facts["pred_object"], 336),
            "material": one_hot(facts["pred_material"], 26),
            "scene": F.one_hot(torch.tensor(int(facts["pred_scene"])), 365)[None].float(),
            "part": torch.cat(
                [
                    one_hot(local, len(group.parts))
                    for local, group in zip(facts["pred_part"], BRODEN.part_groups, strict=True)
                ],
                dim=1,
            ),
        }
        maps: dict[str, np.ndarray] = {}
        labels: dict[str, int] = {}
        if facts["valid_object"]:
            maps |= {"object": facts["seg_object"], "part": global_parts(facts)}
            labels |= {"scene": int(facts["scene_label"])}
        if facts["valid_material"]:
            maps |= {"material": facts["seg_material"].astype(np.int16)}
        photo = tv_tensors.Image(torch.zeros(3, *facts["seg_object"].shape, dtype=torch.uint8))
        masks = {level: tv_tensors.Mask(torch.from_numpy(labels)) for level, labels in maps.items()}
        yield outputs, Sample(photo, masks, labels)


def scored(rules: MetricRules, golden: dict[str, np.ndarray]) -> dict[str, LevelMetrics]:
    scores = Scores(BRODEN, rules=rules)
    for outputs, sample in photos(golden):
        scores.update(outputs, sample)
    return scores.result()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_the_published_rules_are_those_of_the_released_code(golden: dict[str, np.ndarray]) -> None:
    result = {level: metrics.to_dict() for level, metrics in scored("published", golden).items()}
    for level, theirs, ours in (
        ("object", "mIoU", "miou"),
        ("object", "pixel_acc", "pixel_accuracy"),
        ("part", "mIoU", "miou"),
        ("part", "pixel_acc", "pixel_accuracy"),
        ("scene", "top1", "top1"),
        ("material", "mIoU", "miou"),
        ("material", "pixel_acc", "pixel_accuracy"),
    ):
        assert result[level][ours] == pytest.approx(float(golden[f"result/{level}/{theirs}"]), abs=1e-9), (level, ours)
    owners = BRODEN.level("object").names
    for theirs, ours in (("mIoU_per_object", "miou"), ("pixel_acc_per_object", "pixel_accuracy")):
        for group, expected in zip(BRODEN.part_groups, golden[f"result/part/{theirs}"], strict=True):
            found = result["part"]["per_object"].get(owners[group.owner])
            assert (found is None) == bool(np.isnan(expected)), owners[group.owner]
            if found is not None:
                assert found[ours] == pytest.approx(float(expected), abs=1e-9)


@needs_reference
@pytest.mark.golden
@pytest.mark.slow
def test_by_default_absent_classes_do_not_count(golden: dict[str, np.ndarray]) -> None:
    result = scored("standard", golden)
    expected = golden["note/mean_over_classes_with_union"]
    for level, value in zip(("object", "material"), expected, strict=True):
        pixels = result[level].pixels
        assert pixels is not None and pixels.miou == pytest.approx(float(value), abs=1e-8)


PETS = Taxonomy.from_dict(
    {
        "name": "pets",
        "description": "One object with parts, and pixels without a label.",
        "levels": {
            "object": {"background": "-", "classes": ["cat", "sky"]},
            "part": {"background": "-", "classes": ["head", "tail"], "of": {"cat": ["head", "tail"]}},
        },
    }
)


@pytest.mark.parametrize(("rules", "head"), [("standard", 1.0), ("published", 1 / 2)])
def test_parts_on_unlabeled_pixels_count_only_by_the_published_rules(rules: MetricRules, head: float) -> None:
    # truth: head of a cat, tail of a cat, not labeled; prediction: head, tail, head of a cat
    objects, parts = np.array([[1, 1, 0]], np.int16), np.array([[1, 2, IGNORE]], np.int16)
    outputs = {"object": one_hot(np.array([[1, 1, 1]]), 3), "part": one_hot(np.array([[1, 2, 1]]), 3)}
    scores = Scores(PETS, rules=rules)
    masks = {level: tv_tensors.Mask(torch.from_numpy(map)) for level, map in (("object", objects), ("part", parts))}
    scores.update(outputs, Sample(tv_tensors.Image(torch.zeros(3, 1, 3, dtype=torch.uint8)), masks))
    metrics = scores.result()["part"].parts
    assert metrics is not None and metrics.per_class["cat/head"].iou == pytest.approx(head)


def test_batches_without_a_scene_are_no_nan() -> None:
    scores = Scores(BRODEN, rules="published")
    photo = tv_tensors.Image(torch.zeros(3, 4, 4, dtype=torch.uint8))
    scores.update({"scene": torch.zeros(1, 365)}, Sample(photo, {}, {"scene": IGNORE}))
    assert "scene" not in scores.result()


TOY = Taxonomy.from_dict(
    {
        "name": "toy",
        "description": "Two objects with parts, of which they share one.",
        "levels": {
            "scene": {"classes": ["room", "street", "field"]},
            "object": {"background": "-", "classes": ["cat", "sky", "car"]},
            "part": {
                "background": "-",
                "classes": ["head", "tail", "wheel"],
                "of": {"cat": ["head", "tail"], "car": ["head", "wheel"]},
            },
            "material": {"background": "-", "classes": ["wood", "glass", "stone"]},
        },
    }
)


@dataclass
class Photo:
    """Predictions and annotations of a photo, in the terms of the released code."""

    objects: np.ndarray
    predicted_objects: np.ndarray
    parts: list[np.ndarray]
    """Per object with parts: the local index of the part at each pixel of the object; 0 elsewhere."""
    predicted_parts: list[np.ndarray]
    materials: np.ndarray | None
    predicted_materials: np.ndarray
    scene: int
    predicted_scene: int


@st.composite
def annotated_photos(draw: st.DrawFn) -> list[Photo]:
    """Photos with unlabeled pixels, absent classes, and without scenes, materials or parts."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found: list[Photo] = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))

        def labels(count: int, shape: tuple[int, int] = shape) -> np.ndarray:
            present = random.choice(count, draw(st.integers(1, count)), replace=False)
            return random.choice(present, shape)

        objects = labels(4)
        local = [labels(3) * (objects == group.owner) * draw(st.integers(0, 1)) for group in TOY.part_groups]
        found.append(
            Photo(
                objects, labels(4), local, [labels(3) for _ in local],
                labels(4) if draw(st.booleans()) else None, labels(4),
                draw(st.integers(-1, 2)), draw(st.integers(0, 2)),
            )
        )  # fmt: skip
    return found


def released_iou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: range) -> float:
    """Return the mean over all classes of intersection / (union + 1e-8), over pairs of prediction and truth."""
    both = [sum(int(((guess == c) & (truth == c)).sum()) for guess, truth in pairs) for c in classes]
    either = [sum(int(((guess == c) | (truth == c)).sum()) for guess, truth in pairs) for c in classes]
    return sum(inside / (union + 1e-8) for inside, union in zip(both, either, strict=True)) / len(classes)


def released_accuracy(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the share of the labeled pixels that is right."""
    right = sum(int(((guess == truth) & (truth > 0)).sum()) for guess, truth in pairs)
    return right / sum(int((truth > 0).sum()) for _, truth in pairs)


@settings(max_examples=100, deadline=None)
@given(annotated_photos())
def test_the_published_rules_are_those_of_a_plain_reimplementation(photos: list[Photo]) -> None:
    scores = Scores(TOY, rules="published")
    for photo in photos:
        outputs = {
            "scene": F.one_hot(torch.tensor([photo.predicted_scene]), 3).float(),
            "object": one_hot(photo.predicted_objects, 4),
            "part": torch.cat([one_hot(local, 3) for local in photo.predicted_parts], dim=1),
            "material": one_hot(photo.predicted_materials, 4),
        }
        parts = np.full(photo.objects.shape, IGNORE)
        for group, local in zip(TOY.part_groups, photo.parts, strict=True):
            inside = photo.objects == group.owner
            if local.any():
                parts[inside] = np.array(group.parts)[local[inside]]
        maps = {"object": photo.objects, "part": parts}
        if photo.materials is not None:
            maps["material"] = photo.materials
        masks = {level: tv_tensors.Mask(torch.from_numpy(map.astype(np.int16))) for level, map in maps.items()}
        image = tv_tensors.Image(torch.zeros(3, *photo.objects.shape, dtype=torch.uint8))
        scores.update(outputs, Sample(image, masks, {"scene": photo.scene}))
    found = {level: metrics.to_dict() for level, metrics in scores.result().items()}

    objects = [(np.where(photo.objects > 0, photo.predicted_objects, 0), photo.objects) for photo in photos]
    materials = [
        (np.where(photo.materials > 0, photo.predicted_materials, 0), photo.materials)
        for photo in photos
        if photo.materials is not None
    ]
    for level, pairs in (("object", objects), ("material", materials)):
        assert (level in found) == any((truth > 0).any() for _, truth in pairs)
        if level in found:
            assert found[level]["miou"] == pytest.approx(released_iou(pairs, range(1, 4)), abs=1e-9)
            assert found[level]["pixel_accuracy"] == pytest.approx(released_accuracy(pairs), abs=1e-9)

    ious: list[float] = []
    accuracies: list[float] = []
    for number, group in enumerate(TOY.part_groups):
        pairs = [
            (np.where(photo.predicted_objects == group.owner, photo.predicted_parts[number], 0), photo.parts[number])
            for photo in photos
            # "more than one value" in the released code, which counts the 0 outside the object
            if len(np.unique(photo.parts[number])) > 1
        ]
        if pairs:
            ious.append(released_iou(pairs, range(1, 3)))
            accuracies.append(released_accuracy(pairs))
    assert ("part" in found) == bool(ious)
    if ious:
        assert found["part"]["miou"] == pytest.approx(sum(ious) / len(ious), abs=1e-9)
        assert found["part"]["pixel_accuracy"] == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-9)

    scenes = [photo.predicted_scene == photo.scene for photo in photos if photo.scene != IGNORE]
    assert ("scene" in found) == bool(scenes)
    if scenes:
        assert found["scene"]["top1"] == pytest.approx(sum(scenes) / len(scenes), abs=1e-9)
