"""Tests of upernet.data.prepare.broden: converting; the losses and scores of what it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.broden import make_ade_2021, make_dtd, make_opensurfaces
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet.data.prepare.broden import Folders, prepare_broden
from upernet.data.prepare.broden.converting import owned_parts
from upernet.data.sample import stack
from upernet.data.sources import open_source
from upernet.models import UPerNet
from upernet.recipe import load_recipe
from upernet.taxonomy import load_taxonomy
from upernet.training.losses import LevelLosses

TAXONOMY = load_taxonomy("broden")
OWNERS = [group.owner for group in TAXONOMY.part_groups][:6]
LISTED = sorted({part for group in TAXONOMY.part_groups[:6] for part in group.parts})


def published_planes(parts: np.ndarray, objects: np.ndarray) -> dict[int, np.ndarray]:
    """Return object -> its parts as positions in its list, as section 7 of the reference describes the released code.

    Objects that have none of their parts in the photo are left out (`valid_part`).
    """
    planes: dict[int, np.ndarray] = {}
    for group in TAXONOMY.part_groups:
        plane = np.zeros(parts.shape, int)
        for row, column in zip(*np.nonzero(objects == group.owner), strict=True):
            if parts[row, column] in group.parts:
                plane[row, column] = group.parts.index(parts[row, column])
        if plane.any():
            planes[group.owner] = plane
    return planes


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, *OWNERS]), min_size=12, max_size=12),
    st.lists(st.sampled_from([*LISTED, 150]), min_size=12, max_size=12),
)
def test_parts_are_those_of_the_released_code(objects, parts):
    object_map, part_map = np.array(objects).reshape(3, 4), np.array(parts).reshape(3, 4)
    owned = owned_parts(part_map, object_map, TAXONOMY)
    planes = published_planes(part_map, object_map)
    for group in TAXONOMY.part_groups:
        inside = object_map == group.owner
        if group.owner in planes:
            assert [group.parts[local] for local in planes[group.owner][inside]] == owned[inside].tolist()
        else:
            assert (owned[inside] == 255).all()
    assert (owned[~np.isin(object_map, list(planes))] == 255).all()


@pytest.mark.slow
def test_what_was_written_trains_every_level(tmp_path):
    folders = Folders(make_ade_2021(tmp_path), opensurfaces=make_opensurfaces(tmp_path), dtd=make_dtd(tmp_path))
    prepare_broden(tmp_path / "out", folders)
    recipe = load_recipe(str(tmp_path / "out" / "recipe.yaml"))
    model, losses = UPerNet("resnet18", taxonomy="broden", decoder_channels=16), LevelLosses(TAXONOMY)
    trained: set[str] = set()
    for name, spec in recipe.sources.items():
        split = spec.split_names[0]
        source = open_source(name, spec, TAXONOMY, tmp_path / "out", split)
        batch = stack([source[0], source[0]], name).widened()
        images = torch.nn.functional.interpolate(batch.images.float(), (64, 64)).to(torch.uint8)
        logits = model(model.preprocess(images), levels=source.levels)
        found = losses(logits, batch, {})
        losses.total(logits, batch).backward()
        trained |= {level for level, ratio in found.items() if float(ratio.denominator) > 0}
    assert {"scene", "object", "part/person", "material", "texture"} <= trained
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)
