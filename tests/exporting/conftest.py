from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.networks import as_if_trained
from upernet import UPerNet
from upernet.checkpoints import save_checkpoint
from upernet.models.familiarity import Familiarity
from upernet.taxonomy import Taxonomy

TINY = {"backbone_options": {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}, "decoder_channels": 32}


@pytest.fixture(scope="session")
def tiny() -> UPerNet:
    """Return a small InternImage with two levels, one of them with parts."""
    torch.manual_seed(0)
    taxonomy = Taxonomy.from_dict(
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
    model = UPerNet("internimage_t", taxonomy, **TINY)
    model.apply(as_if_trained)
    model.familiarity = familiarity = Familiarity(2 * (16 + 32), components=4, sources=2, photos=50)
    familiarity.projection.normal_(std=0.2)
    familiarity.centers.normal_()
    familiarity.whitening.copy_(torch.eye(4))
    familiarity.distances.copy_(torch.linspace(0, 20, 50))
    return model.eval()


@pytest.fixture(scope="session")
def tiny_file(tiny: UPerNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of `tiny`."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    card = {"name": "tiny", "short_side": 96, "thresholds": {"object": 0.3}, "temperatures": {"object": 1.5}}
    save_checkpoint(path, tiny, card)
    return path
