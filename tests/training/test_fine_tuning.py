"""Tests of training an InternImage recipe with the ADE20K schedule: it learns, and it starts from published weights."""

import json

import pytest
import torch
import yaml
from helpers.official_network import official_name

from upernet.checkpoints import load_checkpoint
from upernet.errors import UpernetError
from upernet.models import UPerNet
from upernet.recipe import ModelSpec, Recipe, load_recipe
from upernet.taxonomy import load_taxonomy
from upernet.training import train

MODEL = {
    "backbone": "internimage_t",
    "backbone_options": {"channels": 16, "depths": [1, 1, 2, 1], "groups": [1, 2, 4, 8]},
    "drop_path": 0.1,
    "decoder_channels": 16,
    "head_channels": 0,
    "auxiliary_channels": 8,
}
AUGMENTATION = {
    "short_side": 64,
    "long_side": 256,
    "scale": [0.5, 2.0],
    "scale_distribution": "uniform",
    "antialias": False,
    "crop": [48, 48],
    "max_class_share": 0.75,
    "photometric": "hsv",
}
STAGE = {
    "name": "ade20k",
    "sources": ["streets"],
    "iterations": 40,
    "learning_rate": 2e-3,
    "weight_decay": 0.05,
    "power": 1.0,
    "warmup_iterations": 5,
    "layer_decay": 0.9,
}


@pytest.fixture
def ade_like(recipe_file, tmp_path):
    """Return a function that writes the tiny recipe with the published model, loss, schedule and augmentation."""

    def write(taxonomy: str = "everyday", **training) -> Recipe:
        streets = recipe_file.recipe["sources"]["streets"] | {"augmentation": AUGMENTATION}
        if taxonomy == "camvid":
            del streets["implies"]
        recipe = recipe_file.recipe | {
            "taxonomy": taxonomy,
            "model": MODEL,
            "loss": {"average": "all"},
            "sources": {"streets": streets},
            "training": {
                "workers": 0,
                "checkpoint_every": 15,
                "gradient_clipping": None,
                "stages": [STAGE],
                **training,
            },
        }
        path = tmp_path / "ade_like.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return load_recipe(path)

    return write


def losses(folder) -> list[float]:
    return [json.loads(line)["losses"]["object"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_published_schedule_lowers_the_loss(data, ade_like, tmp_path):
    train(ade_like("camvid"), data, tmp_path / "run", device="cpu", quiet=True)
    values = losses(tmp_path / "run")
    assert len(values) == 40 and sum(values[-8:]) < 0.8 * sum(values[:8])


@pytest.mark.slow
def test_gradient_checkpointing_changes_memory_only(data, ade_like, tmp_path):
    short = [STAGE | {"iterations": 4}]
    for name, enabled in (("plain", False), ("checkpointed", True)):
        recipe = ade_like("camvid", stages=short, gradient_checkpointing=enabled)
        train(recipe, data, tmp_path / name, device="cpu", quiet=True)
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "checkpointed"), rel=1e-5)


@pytest.mark.slow
def test_a_published_checkpoint_is_fine_tuned_to_other_classes(data, ade_like, tmp_path):
    """From 150 classes to those of `everyday`: all weights but the classifiers are kept, and the others are named."""
    torch.manual_seed(0)
    published = UPerNet(ModelSpec.model_validate(MODEL), load_taxonomy("ade20k150"))
    state = {official_name(key): value for key, value in published.state_dict().items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state, "optimizer": {}}, tmp_path / "published.pth")
    lines: list[str] = []
    stages = [STAGE | {"iterations": 1, "learning_rate": 1e-12}]
    path = train(
        ade_like(stages=stages),
        data,
        tmp_path / "run",
        initialize_from=tmp_path / "published.pth",
        device="cpu",
        quiet=True,
        log=lines.append,
    )
    new = {
        "auxiliary.classifier",
        "heads.object.classifier",
        "heads.scene",
        "heads.part",
        "heads.material",
        "heads.texture",
    }
    (line,) = [line for line in lines if line.startswith("Loaded weights from")]
    named = line.split("new in whole or in part: ")[1].rstrip(".").split(", ")
    assert {"heads.object.classifier"} < set(named)
    assert all(any(name.startswith(start) for start in new) for name in named)
    model, _ = load_checkpoint(path)
    for key, value in model.backbone.state_dict().items():
        torch.testing.assert_close(value, published.backbone.state_dict()[key], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_another_network_is_refused(data, ade_like, tmp_path):
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(UpernetError, match=r"other\.pth"):
        train(ade_like(), data, tmp_path / "run", initialize_from=tmp_path / "other.pth", device="cpu", quiet=True)
    assert not (tmp_path / "run" / "log.jsonl").exists()
