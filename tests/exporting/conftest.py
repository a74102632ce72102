from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.exports import CARD

from benchmarks.networks import as_if_trained
from upernet import UPerNet
from upernet.checkpoints import save_checkpoint
from upernet.models.familiarity import Familiarity
from upernet.taxonomy import Taxonomy


@pytest.fixture(scope="session")
def rooms() -> Taxonomy:
    """Return a taxonomy with three levels, one of them with parts."""
    return Taxonomy.from_dict(
        {
            "name": "rooms",
            "description": "A scene, objects and parts.",
            "levels": {
                "scene": {"classes": [{"name": name} for name in ("kitchen", "street", "forest")]},
                "object": {"classes": [{"name": name} for name in ("wall", "person", "car", "tree")]},
                "part": {
                    "background": {"name": "none"},
                    "classes": [{"name": name} for name in ("head", "arm", "wheel")],
                    "of": {"person": ["head", "arm"], "car": ["wheel"]},
                },
            },
        }
    )


@pytest.fixture(scope="session")
def tiny(rooms: Taxonomy) -> UPerNet:
    """Return InternImage-T with one block in each stage, because all blocks are alike, and a familiarity."""
    torch.manual_seed(0)
    model = UPerNet("internimage_t", rooms, backbone_options={"depths": (1, 1, 1, 1)}, decoder_channels=32)
    model.apply(as_if_trained)
    model.familiarity = familiarity = Familiarity(2 * (64 + 128), components=4, sources=2, photos=50)
    familiarity.projection.normal_(std=0.2)
    familiarity.centers.normal_()
    familiarity.whitening.copy_(torch.eye(4))
    familiarity.distances.copy_(torch.linspace(0, 20, 50))
    return model.eval()


@pytest.fixture(scope="session")
def small(rooms: Taxonomy) -> UPerNet:
    """Return a network of convolutions alone."""
    torch.manual_seed(0)
    model = UPerNet("test_resnet", rooms, decoder_channels=16, pool_scales=())
    model.apply(as_if_trained)
    return model.eval()


@pytest.fixture(scope="session")
def smallest(rooms: Taxonomy) -> UPerNet:
    """Return one that says what the scene is, without a decoder, and that is exported in a few seconds."""
    torch.manual_seed(0)
    scenes = Taxonomy.from_dict(rooms.to_dict() | {"levels": {"scene": rooms.to_dict()["levels"]["scene"]}})
    model = UPerNet("test_resnet", scenes, decoder_channels=16, pool_scales=())
    model.apply(as_if_trained)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_file(tiny: UPerNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of `tiny`."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_checkpoint(path, tiny, CARD)
    return path
