"""Tests of upernet.training.loop and upernet.training.step: whole runs, resumed, killed and on two processes."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from upernet.checkpoints import load_checkpoint
from upernet.errors import UpernetError
from upernet.recipe import load_recipe
from upernet.training import train

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def records(folder):
    """Return the records of the log without the durations."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.slow
def test_training_writes_a_model_that_loads_and_a_log_of_every_iteration(data, recipe_file, tmp_path):
    lines: list[str] = []
    path = train(load_recipe(recipe_file()), data, tmp_path / "run", device="cpu", quiet=True, log=lines.append)
    model, card = load_checkpoint(path)
    assert card.name == "tiny" and set(model.levels) == {"scene", "object", "part", "material", "texture"}
    log = records(tmp_path / "run")
    assert [record["iteration"] for record in log] == list(range(1, 11))
    assert [record["stage"] for record in log] == ["all"] * 7 + ["texture"] * 3
    annotated = {
        "streets": {"object", "object/auxiliary", "scene", "material"},
        "places": {"scene"},
        "textures": {"texture"},
    }
    for record in log:
        assert set(record["losses"]) == annotated[record["source"]]
    assert {record["source"] for record in log} == set(annotated)
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert {name for name in os.listdir(tmp_path / "run") if name.startswith(".")} <= {".lock"}


@pytest.mark.slow
def test_training_lowers_the_loss(data, recipe_file, tmp_path):
    stage = {"name": "all", "iterations": 60, "sources": ["streets"], "learning_rate": 0.01}
    train(load_recipe(recipe_file(stages=[stage])), data, tmp_path / "run", device="cpu", quiet=True)
    losses = [record["losses"]["object"] for record in records(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.process
@pytest.mark.slow
def test_a_killed_run_is_resumed_bit_for_bit(data, recipe_file, tmp_path):
    """Killed with SIGKILL in the middle of an iteration, once in each stage."""
    path = recipe_file()
    train(load_recipe(path), data, tmp_path / "whole", device="cpu", quiet=True)
    command = [
        sys.executable,
        "-m",
        "upernet",
        "train",
        str(path),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "killed"),
    ]
    command += ["--device", "cpu", "--quiet"]
    for stop_after in (3, 9):  # at 9, the state is that of iteration 2 of the second stage
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        log = tmp_path / "killed" / "log.jsonl"
        while process.poll() is None:
            if log.is_file() and log.read_text().count("\n") >= stop_after:
                process.send_signal(signal.SIGKILL)
                process.wait()
        assert process.returncode == -signal.SIGKILL
    with log.open("a") as file:
        file.write('{"iteration": 99, "loss": 1')  # the line that a kill cuts in two
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    whole, killed = (load_checkpoint(tmp_path / run / "model.safetensors")[0] for run in ("whole", "killed"))
    for (key, expected), value in zip(whole.state_dict().items(), killed.state_dict().values(), strict=True):
        if not key.startswith("auxiliary."):
            assert torch.equal(value, expected), key


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(data, recipe_file, tmp_path):
    """Uneven shares of a batch, and parts that only one process sees; SGD without clipping hides no wrong factor."""
    for number in (0, 2, 4):  # the first process's photos lose their trees
        path = data / "streets" / "train" / "annotations" / f"{number}.png"
        mask = np.asarray(Image.open(path)).copy()
        mask[mask == 2] = 1
        Image.fromarray(mask).save(path)
    (tmp_path / "parts.yaml").write_text(
        "description: two objects with parts\n"
        "levels:\n"
        "  scene: {classes: [coast, garden]}\n"
        "  object: {classes: [road, tree]}\n"
        "  part: {classes: [lane, leaf], of: {road: [lane], tree: [leaf]}}\n"
    )
    recipe = recipe_file.recipe | {"taxonomy": "parts.yaml"}
    recipe["model"] = recipe["model"] | {"dropout": 0.0}
    streets = recipe["sources"]["streets"] | {
        "level": "part",
        "classes": {"sky": None, "road": "lane", "tree": "leaf"},
        "implies": {"object": {"lane": "road", "leaf": "tree"}},
        "batch_size": 3,
    }
    recipe["sources"] = {"streets": streets, "places": recipe["sources"]["places"]}
    stage = {"name": "s", "iterations": 6, "sources": ["streets", "places"], "learning_rate": 0.02, "optimizer": "sgd"}
    recipe["training"] = {"workers": 0, "gradient_clipping": 1e6, "stages": [stage]}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["-m", "upernet", "train", str(tmp_path / "two.yaml"), "--data", str(data)]
    arguments += ["--device", "cpu", "--quiet", "--out"]
    subprocess.run([sys.executable, *arguments, str(tmp_path / "one")], check=True, stdout=subprocess.DEVNULL)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(
        [*TORCHRUN, *arguments, str(tmp_path / "two")], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert [(r["iteration"], r["source"]) for r in one] == [(r["iteration"], r["source"]) for r in two]
    assert {"part/road", "part/tree", "object", "object/auxiliary", "scene"} == {n for r in one for n in r["losses"]}
    for a, b in zip(one, two, strict=True):
        assert b["losses"] == pytest.approx(a["losses"], rel=2e-4), a["iteration"]


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(data, recipe_file, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(UpernetError, match="another run is writing there"):
        train(load_recipe(recipe_file()), data, out, device="cpu", quiet=True)


@pytest.mark.slow
def test_resuming_with_other_data_is_refused_and_with_more_workers_is_not(data, recipe_file, tmp_path):
    train(load_recipe(recipe_file()), data, tmp_path / "run", device="cpu", quiet=True)
    train(load_recipe(recipe_file(workers=1)), data, tmp_path / "run", device="cpu", quiet=True)
    (data / "places" / "train" / "coast" / "coast0.png").unlink()
    with pytest.raises(UpernetError, match="other data"):
        train(load_recipe(recipe_file()), data, tmp_path / "run", device="cpu", quiet=True)


@pytest.mark.process
@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state(data, recipe_file, tmp_path):
    """A limit on file sizes replaces the full disk: the kernel refuses the write half-way."""
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "from upernet.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["train", str(recipe_file()), "--data", str(data), "--out", str(tmp_path / "run"), "--quiet"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "state.safetensors: writing failed" in done.stderr and "nothing was changed" in done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "log.jsonl",
        "recipe.yaml",
        "taxonomy.yaml",
        "tensorboard",
    ]


@pytest.mark.slow
def test_a_run_of_another_recipe_is_not_overwritten(data, recipe_file, tmp_path):
    train(load_recipe(recipe_file()), data, tmp_path / "run", device="cpu", quiet=True)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(UpernetError, match="holds a run of another recipe"):
        train(load_recipe(recipe_file(seed=7)), data, tmp_path / "run", device="cpu", quiet=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_fine_tuning_names_the_heads_that_are_newly_initialized(data, recipe_file, tmp_path):
    path = train(load_recipe(recipe_file()), data, tmp_path / "run", device="cpu", quiet=True)
    text = recipe_file.recipe | {"taxonomy": "camvid"}
    text["sources"] = {"streets": {k: v for k, v in text["sources"]["streets"].items() if k != "implies"}}
    text["training"] = {
        "workers": 0,
        "stages": [{"name": "s", "iterations": 1, "sources": ["streets"], "learning_rate": 0.001}],
    }
    text["model"] = text["model"] | {"backbone": "mobilenetv3_small_050"}
    text["taxonomy"] = "ade20k150"
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(text))
    lines: list[str] = []
    train(
        load_recipe(tmp_path / "other.yaml"),
        data,
        tmp_path / "tuned",
        device="cpu",
        initialize_from=path,
        quiet=True,
        log=lines.append,
    )
    new = "auxiliary.classifier, auxiliary.conv.0, auxiliary.conv.1, heads.object.classifier"
    assert lines[0].endswith(f"new in whole or in part: {new}.")


@pytest.mark.slow
def test_training_errors_say_what_to_do(data, recipe_file, tmp_path):
    with pytest.raises(UpernetError, match="has no training section"):
        train(load_recipe("upp_resnet50_upernet"), data, tmp_path / "run")
    with pytest.raises(UpernetError, match="Training needs every source"):
        train(load_recipe(recipe_file()), tmp_path / "elsewhere", tmp_path / "run", quiet=True)
    # Each step multiplies the weights by 1 - 1000 * 0.5.
    settings = {"learning_rate": 1000.0, "weight_decay": 0.5, "optimizer": "sgd"}
    hot = [{"name": "hot", "iterations": 20, "sources": ["streets"], **settings}]
    typo = {**hot[0], "loss": {"class_weights": {"object": {"skyy": 2.0}}}}
    with pytest.raises(UpernetError, match="'skyy'"):
        train(load_recipe(recipe_file(stages=[*hot, typo])), data, tmp_path / "hot", device="cpu", quiet=True)
    no_texture = {**hot[0], "trains": "texture"}
    with pytest.raises(UpernetError, match="source streets has none"):
        train(load_recipe(recipe_file(stages=[no_texture])), data, tmp_path / "hot", device="cpu", quiet=True)
    with pytest.raises(UpernetError, match="not finite: lower the learning rate"):
        train(
            load_recipe(recipe_file(stages=hot, gradient_clipping=None)),
            data,
            tmp_path / "hot",
            device="cpu",
            quiet=True,
        )
    assert not (tmp_path / "hot" / "model.safetensors").exists()


@pytest.mark.slow
def test_bf16_autocast_trains(data, recipe_file, tmp_path):
    stage = {"name": "all", "iterations": 2, "sources": ["streets"], "learning_rate": 0.001}
    path = recipe_file(stages=[stage])
    train(load_recipe(path), data, tmp_path / "fp32", device="cpu", quiet=True)
    path = recipe_file(stages=[stage], precision="bf16")
    train(load_recipe(path), data, tmp_path / "bf16", device="cpu", quiet=True)
    exact, rounded = records(tmp_path / "fp32")[0]["losses"], records(tmp_path / "bf16")[0]["losses"]
    assert rounded == pytest.approx(exact, rel=0.05) and rounded != exact
