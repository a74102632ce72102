"""Tests of docs/extending.md: every extension is made in a copy of the package, with as many files as the guide says.

Each case writes the files of the change, runs a program that uses it, and compares the number of changed files with the
table of the guide.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import upernet

PACKAGE = Path(upernet.__file__).parent
GUIDE = (Path(__file__).parents[1] / "docs/extending.md").read_text(encoding="utf-8")
PROMISED = {name: int(count) for name, count in re.findall(r"^\| ([^|]+?) \| [^|]+ \| (\d+) \|", GUIDE, re.MULTILINE)}
"""Extension -> number of files, from the table of the guide."""

pytestmark = [pytest.mark.slow, pytest.mark.process]


class Copy:
    """A copy of the package to change."""

    def __init__(self, root: Path):
        self.root = root
        self.package = root / "upernet"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__", "shipped"))

    def add(self, file: str, text: str) -> None:
        path = self.package / file
        assert not path.exists()
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def edit(self, file: str, *replacements: tuple[str, str]) -> None:
        path = self.package / file
        text = path.read_text(encoding="utf-8")
        for old, new in replacements:
            assert text.count(old) == 1, (file, old)
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def changed_files(self) -> list[str]:
        """Return the files that differ from the package, or that it does not have."""
        files = (path.relative_to(self.package) for path in self.package.rglob("*") if path.is_file())
        return sorted(
            str(file)
            for file in files
            if "__pycache__" not in file.parts
            and not ((PACKAGE / file).is_file() and filecmp.cmp(PACKAGE / file, self.package / file, shallow=False))
        )

    def run(self, code: str) -> str:
        """Run a program with the copy; return what it prints."""
        return self._call("-c", code)

    def command(self, *arguments: str | Path) -> str:
        """Run a command of the copy; return what it prints."""
        return self._call("-m", "upernet", *map(str, arguments))

    def _call(self, *arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        command = [sys.executable, *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=self.root)
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_level(copy: Copy, tmp_path: Path) -> None:
    copy.edit(
        "taxonomy/levels.py",
        (
            '        LevelKind("texture", ',
            '        LevelKind("affordance", dense=True, reads="fused", owned_by=None, loss_weight=1.0),\n'
            '        LevelKind("texture", ',
        ),
    )
    copy.add(
        "taxonomy/affordances.yaml",
        """
description: What things are good for.
levels:
  object:
    classes: [sky, chair]
  affordance:
    background: none
    classes: [sit, grasp]
""",
    )
    copy.add(
        "recipes/affordances.yaml",
        """
description: Objects and affordances of painted photos.
taxonomy: affordances
model: {backbone: efficientnet_lite0, decoder_channels: 16}
sources:
  things:
    kind: mask_folder
    path: things/{split}
    annotations: {object: {folder: objects}, affordance: {folder: uses}}
    augmentation: {crop: [64, 64]}
    batch_size: 2
training:
  stages:
    - {name: all, iterations: 2, sources: [things], learning_rate: 0.01}
""",
    )
    data, run = tmp_path / "data", tmp_path / "run"
    colors = np.array([(90, 160, 255), (160, 80, 40), (20, 200, 60)], np.uint8)
    labels = np.arange(64 * 64).reshape(64, 64) // 64 * 3 // 64
    for split in ("train", "test"):
        folder = data / "things" / split
        for number in range(2):
            save(folder / f"images/{number}.png", colors[labels])
            save(folder / f"objects/{number}.png", labels.clip(0, 1).astype(np.uint8))
            save(folder / f"uses/{number}.png", labels.astype(np.uint8))
        (folder / "objects/labels.txt").write_text("0\tsky\n1\tchair\n")
        (folder / "uses/labels.txt").write_text("0\tnone\n1\tsit\n2\tgrasp\n")

    copy.command("data", "check", "affordances", "--data", data)
    copy.command("train", "affordances", "--data", data, "--out", run)
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
    scores, photo = tmp_path / "scores.json", data / "things/test/images/0.png"
    copy.command("evaluate", "affordances", "--checkpoint", run, "--data", data, "--json", scores)
    copy.command("parse", photo, "--model", run, "--out", tmp_path / "parses")
    copy.run(
        f"""
import json
from pathlib import Path
import upernet

scores = json.loads(Path({str(scores)!r}).read_text())
assert set(scores["affordance"]["per_class"]) == {{"sit", "grasp"}}
parse = json.loads(Path({str(tmp_path / "parses/0/parse.json")!r}).read_text())
assert parse["affordance"]["names"] == ["none", "sit", "grasp"]
assert "ffordance" in parse["description"]
assert upernet.load({str(run)!r})({str(photo)!r})["affordance"].labels.shape == (64, 64)
"""
    )
    assert len(copy.changed_files()) == PROMISED["level"]


def test_a_backbone_of_timm(copy: Copy) -> None:
    copy.run(
        """
from upernet.models import build_model
from upernet.recipe import Recipe
import torch

recipe = Recipe.model_validate({"description": "", "taxonomy": "camvid", "model": {"backbone": "resnet18"}})
with torch.device("meta"):
    model = build_model(recipe).eval()
assert model(torch.zeros(1, 3, 64, 64, device="meta"))["object"].shape == (1, 11, 16, 16)
"""
    )
    assert len(copy.changed_files()) == PROMISED["backbone of timm"]


def test_a_backbone(copy: Copy) -> None:
    copy.add(
        "models/pooling.py",
        '''"""A toy backbone: averages of the image at four strides."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from upernet.models.features import STRIDES, Feature, FeatureInfo
from upernet.models.protocol import IMAGENET, BackboneSettings, ConvNormPair, Normalization


class Pooling(nn.Module):
    num_layers = 4

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)) for _ in STRIDES)
        self.feature_info = FeatureInfo(*(Feature(8, stride, f"stages.{i}") for i, stride in enumerate(STRIDES)))

    def layer_of(self, parameter: str) -> int:
        return int(parameter.split(".")[1])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        pass  # nothing is worth recomputing

    def foldable_pairs(self) -> Sequence[ConvNormPair]:
        return [ConvNormPair(*stage) for stage in self.stages]

    def forward(self, images: Tensor) -> list[Tensor]:
        pairs = zip(self.stages, STRIDES, strict=True)
        return [stage(F.avg_pool2d(images, stride, ceil_mode=True)) for stage, stride in pairs]


class PoolingFamily:
    listing = "pooling"
    supported = ()
    markers = frozenset({"stages.0.0.weight"})

    def provides(self, name: str) -> bool:
        return name == "pooling"

    def create(self, name: str, settings: BackboneSettings) -> Pooling:
        return Pooling()

    def normalization(self, name: str) -> Normalization:
        return IMAGENET

    def recognize(self, tensors: Mapping[str, Tensor]) -> str | None:
        return "pooling"


FAMILY = PoolingFamily()
''',
    )
    copy.edit(
        "models/backbones.py",
        ("internimage, timm_family\n", "internimage, pooling, timm_family\n"),
        ("    efficientnet_lite.FAMILY,\n", "    efficientnet_lite.FAMILY,\n    pooling.FAMILY,\n"),
    )  # fmt: skip
    copy.run(
        """
import torch
from upernet.models import build_model, prepare_for_inference
from upernet.models.backbones import recognize_backbone
from upernet.recipe import Recipe, StageSpec
from upernet.training.optimizer import create_optimizer

values = {"description": "", "taxonomy": "camvid", "model": {"backbone": "pooling", "decoder_channels": 8}}
model = build_model(Recipe.model_validate(values)).eval()
images = torch.rand(1, 3, 61, 75)
with torch.inference_mode():
    expected, prepared = model(images)["object"], prepare_for_inference(model)
    assert expected.shape == (1, 11, 16, 19)
    torch.testing.assert_close(prepared(images)["object"], expected, rtol=1e-4, atol=1e-4)
assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in prepared.backbone.modules())
assert recognize_backbone(model.backbone.state_dict()) == "pooling"
stage = StageSpec(name="s", iterations=1, sources=("a",), learning_rate=1.0, layer_decay=0.5)
rates = {group["lr"] for group in create_optimizer(model, stage).param_groups}
assert {0.5**4, 0.5**3, 0.5**2, 0.5, 1.0} <= rates, rates
"""
    )
    assert len(copy.changed_files()) == PROMISED["backbone"]


def test_a_checkpoint_format(copy: Copy) -> None:
    copy.add(
        "checkpoints/formats/prefixed.py",
        '''"""A toy format: our names behind a prefix."""

from collections.abc import Mapping

from torch import Tensor

from upernet.checkpoints.reading import Weights

NAME = "prefixed"


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    return all(name.startswith("toy/") for name in tensors)


def translate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("toy/"): tensor for name, tensor in tensors.items()}


def class_names(weights: Weights) -> object:
    return None
''',
    )
    copy.edit(
        "checkpoints/formats/__init__.py",
        ("import mmsegmentation, transformers, ", "import mmsegmentation, prefixed, transformers, "),
        ("transformers, mmsegmentation)", "transformers, mmsegmentation, prefixed)"),
    )
    copy.run(
        """
import torch
from upernet.checkpoints import load_checkpoint
from upernet.models import build_model
from upernet.recipe import load_recipe

recipe = load_recipe("camvid")
model = build_model(recipe)
torch.save({f"toy/{name}": value for name, value in model.state_dict().items()}, "toy.pth")
loaded, card = load_checkpoint("toy.pth", recipe)
assert card.origin == "prefixed"
for name, value in model.state_dict().items():
    assert torch.equal(loaded.state_dict()[name], value)
"""
    )
    assert len(copy.changed_files()) == PROMISED["checkpoint format"]


def test_a_data_layout(copy: Copy) -> None:
    copy.add(
        "data/sources/beside.py",
        '''"""Photos with their masks beside them: 1.jpg and 1_mask.png."""

from collections.abc import Sequence
from pathlib import Path

from upernet.data.images import is_photo
from upernet.data.sources.annotation import LevelAnnotation, LevelMasks, Photo
from upernet.data.sources.source import FolderSource
from upernet.recipe import AnnotationSpec
from upernet.taxonomy import Level


class Beside(FolderSource):
    def _annotation(self, where: str, level: Level, spec: AnnotationSpec) -> LevelAnnotation:
        return LevelMasks(where, level, spec, self.taxonomy, {})

    def _list(self) -> Sequence[Photo]:
        paths = sorted(path for folder in self.folders for path in folder.iterdir() if is_photo(path))
        photos = [path for path in paths if not path.stem.endswith("_mask")]
        return [Photo(path, {"object": path.with_name(path.stem + "_mask.png")}) for path in photos]


SOURCE = Beside
''',
    )
    copy.edit(
        "recipe/sources.py",
        (
            "AnySourceSpec = Annotated[\n",
            "class BesideSpec(FolderSpec, MaskValueSpec):\n    kind: Literal['beside']\n\n\n"
            "AnySourceSpec = Annotated[\n",
        ),
        ("    MaskFolderSpec | CamvidSpec |", "    BesideSpec | MaskFolderSpec | CamvidSpec |"),
    )
    save(copy.root / "data/set/1.jpg", np.zeros((8, 12, 3), np.uint8))
    save(copy.root / "data/set/1_mask.png", np.full((8, 12), 3, np.uint8))
    copy.run(
        """
from upernet.data.sources import open_source
from upernet.recipe import Recipe
from upernet.taxonomy import load_taxonomy

source = {"kind": "beside", "path": "set", "level": "object", "classes": {3: "car"}}
values = {"description": "", "taxonomy": "camvid", "model": {"backbone": "resnet18"}, "sources": {"mine": source}}
recipe, taxonomy = Recipe.model_validate(values), load_taxonomy("camvid")
sample = open_source("mine", recipe.sources["mine"], taxonomy, "data", "train")[0]
assert (sample.maps["object"] == taxonomy.level("object").index("car")).all()
"""
    )
    assert len(copy.changed_files()) == PROMISED["data layout"]


def test_several_levels_per_photo(copy: Copy) -> None:
    """`test_a_level` trains on such a source; here, no file of the package changes for it."""
    for folder in ("images", "objects", "parts"):
        save(copy.root / f"data/set/{folder}/1.png", np.full((8, 12), 1, np.uint8))
    copy.run(
        """
from upernet.data.sources import open_source
from upernet.recipe import Recipe
from upernet.taxonomy import load_taxonomy

taxonomy = load_taxonomy("broden")
group = taxonomy.part_groups[0]
owner, part = taxonomy.level("object").names[group.owner], taxonomy.level("part").names[group.parts[1]]
annotations = {
    "object": {"folder": "objects", "classes": {1: owner}},
    "part": {"folder": "parts", "classes": {1: part}},
}
source = {"kind": "mask_folder", "path": "set", "annotations": annotations}
values = {"description": "", "taxonomy": "broden", "model": {"backbone": "resnet18"}, "sources": {"mine": source}}
recipe = Recipe.model_validate(values)
sample = open_source("mine", recipe.sources["mine"], taxonomy, "data", "train")[0]
assert (sample.maps["object"] == group.owner).all() and (sample.maps["part"] == group.parts[1]).all()
"""
    )
    assert len(copy.changed_files()) == PROMISED["source with several levels per photo"]


def test_a_data_set(copy: Copy) -> None:
    copy.add(
        "data/prepare/dots.py",
        '''"""A toy data set."""

from collections.abc import Sequence
from pathlib import Path

from upernet.data.prepare import Prepared, Progress
from upernet.files import write_text


def prepare(data_dir: str | Path, archives: Sequence[str | Path], progress: Progress | None = None) -> Prepared:
    write_text(Path(data_dir) / "dots/labels.txt", "0\\tdot\\n")
    return Prepared(Path(data_dir) / "dots", "release 1", {"train": 0}, {"train": 0})


PREPARE = prepare
''',
    )
    copy.edit("data/prepare/__init__.py", ("DATASETS = {\n", 'DATASETS = {\n    "dots": "dots.zip.",\n'))
    assert "release 1" in copy.command("data", "prepare", "dots", copy.root / "data")
    assert (copy.root / "data/dots/labels.txt").is_file()
    assert len(copy.changed_files()) == PROMISED["published data set"]


def test_a_kernel(copy: Copy) -> None:
    copy.add(
        "ops/softmax/double.py",
        '''"""Softmax that is computed in float64."""

from torch import Tensor

from upernet.ops.softmax import reference


def forward(x: Tensor, groups: int) -> Tensor:
    return reference.forward(x.double(), groups).to(x.dtype)
''',
    )
    copy.edit(
        "ops/softmax/__init__.py",
        (
            '    if kernel != "numba":\n',
            '    if kernel == "double":\n        from upernet.ops.softmax import double\n\n'
            '        return double.forward(x, groups)\n    if kernel != "numba":\n',
        ),
    )
    copy.run(
        """
import torch
from upernet.ops import grouped_softmax, recorded_decisions, use_kernel

x = torch.randn(5, 18)
with use_kernel(grouped_softmax="double"), recorded_decisions() as decisions:
    found = grouped_softmax(x, 2)
assert [decision.kernel for decision in decisions] == ["double"]
assert torch.equal(found, x.double().view(5, 2, 9).softmax(-1).view(5, 18).float())
"""
    )
    assert len(copy.changed_files()) == PROMISED["kernel of an operator"]


def test_an_operator(copy: Copy) -> None:
    copy.add(
        "ops/gate/__init__.py",
        '''"""Gate of a map by its sigmoid."""

from torch import Tensor

from upernet.ops.dispatch import OVERRIDDEN, Choice, decide, override
from upernet.ops.gate import reference


def gate(x: Tensor) -> Tensor:
    decide("gate", choose_gate(x), x)
    return reference.forward(x)


def choose_gate(x: Tensor) -> Choice:
    if kernel := override("gate"):
        return Choice(kernel, OVERRIDDEN)
    return Choice("torch", "it is the only kernel")
''',
    )
    copy.add(
        "ops/gate/reference.py",
        '''"""The plain version in torch."""

from torch import Tensor


def forward(x: Tensor) -> Tensor:
    return x * x.sigmoid()
''',
    )
    copy.edit(
        "ops/__init__.py",
        ("from upernet.ops.lateral import", "from upernet.ops.gate import gate\nfrom upernet.ops.lateral import"),
        ('    "grouped_softmax",\n', '    "gate",\n    "grouped_softmax",\n'),
    )
    copy.run(
        """
import torch
from upernet.ops import gate, recorded_decisions

x = torch.randn(3, 4)
with recorded_decisions() as decisions:
    assert torch.equal(gate(x), torch.nn.functional.silu(x)) or torch.allclose(gate(x), torch.nn.functional.silu(x))
assert decisions[0].reason == "it is the only kernel"
"""
    )
    assert len(copy.changed_files()) == PROMISED["operator"]


def test_a_command(copy: Copy) -> None:
    copy.add(
        "cli/levels.py",
        '''"""The command `upernet levels`."""


def levels() -> None:
    """List the levels of perception."""
    from upernet.taxonomy import LEVELS

    print(" ".join(LEVELS))
''',
    )
    copy.edit(
        "cli/main.py",
        ("import evaluate\n", "import evaluate\nfrom upernet.cli.levels import levels\n"),
        ("app.command()(models)\n", "app.command()(models)\napp.command()(levels)\n"),
    )  # fmt: skip
    assert copy.command("levels") == "scene object part material texture\n"
    assert len(copy.changed_files()) == PROMISED["command"]
