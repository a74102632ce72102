"""`upernet models`"""

from __future__ import annotations

import json

from command_line import Run

from upernet.models import create_model, list_models


def test_models_as_json(run: Run) -> None:
    result = run("models", "--json")
    assert result.status == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(rows) == list_models()
    everyday = rows["everyday"]
    model = create_model("everyday")
    model.auxiliary = None  # only training needs it
    assert everyday["params"] == sum(p.numel() for p in model.parameters())
    assert everyday["macs"] > 10**9
    assert everyday["levels"] == list(model.levels)
    assert everyday["description"]


def test_models_as_text(run: Run) -> None:
    result = run("models")
    assert result.status == 0
    for name in list_models():
        assert name in result.stdout
