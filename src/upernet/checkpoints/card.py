"""Model cards: what a checkpoint says about its model beyond architecture, taxonomy and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from upernet.errors import UpernetError, plain
from upernet.recipe import PublishedTesting, Recipe
from upernet.taxonomy import LEVELS

METRICS = {
    "miou": "mIoU",
    "miou_with_background": "mIoU with background",
    "miou_given_object": "mIoU inside the true object",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "top1": "top-1",
    "top5": "top-5",
}
"""Metric of a level -> its name in tables."""
KEY_LENGTH = 40
"""Longest part of a key, in characters, that an error shows."""
LARGEST_SIDE = 1_000_000
"""Largest side of a photo in pixels that a card can ask for."""


class ModelCard(BaseModel):
    """The card of a checkpoint; keys that this version does not know are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = ""
    """Name of the model, as results show it."""
    description: str = ""
    """One sentence for people."""
    short_side: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = None
    """Pixels that the short side of larger photos is reduced to before parsing; None: photos keep their size."""
    thresholds: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}
    """Level -> probability below which a label is unsure."""
    class_thresholds: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]] = {}
    """Level -> class -> probability below which the label is unsure; other classes have the threshold of the level."""
    temperatures: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Level -> divisor of the logits before the softmax; 1 for other levels."""
    published_testing: PublishedTesting | None = None
    """What `upernet parse --scales published` does; None: nothing was published."""
    license: str = ""
    """Terms of the weights: an SPDX license expression, or words; "": not known."""
    research_only: bool = False
    """Whether the terms allow research or non-commercial use only."""
    scores: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]] = {}
    """Level -> metric (a key of `METRICS`) -> value as a fraction."""
    scored_on: str = ""
    """The photos that `scores` were measured on, in words."""
    origin: str | None = None
    """Format of the file that the model was loaded from, if it was not the native one."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_cards(cls, values: object) -> object:
        """Accept null for values that are not known, and whole numbers as floats, which earlier versions wrote."""
        if not isinstance(values, dict):
            return values
        defaults: dict[Any, Any] = {
            "name": "",
            "description": "",
            "thresholds": {},
            "class_thresholds": {},
            "temperatures": {},
            "license": "",
            "research_only": False,
            "scores": {},
            "scored_on": "",
        }
        read = {
            key: defaults.get(key) if value is None else value for key, value in cast("dict[Any, Any]", values).items()
        }
        side = read.get("short_side")
        return read | {"short_side": int(side)} if isinstance(side, float) and side.is_integer() else read

    def to_dict(self) -> dict[str, object]:
        """Return the keys that were given, as JSON can hold them."""
        return self.model_dump(mode="json", exclude_unset=True)

    def with_terms(self, license: str, research_only: bool) -> ModelCard:
        """Return this card with these terms."""
        return self.model_copy(update={"license": license, "research_only": research_only})

    def with_scores(self, result: Mapping[str, Any]) -> ModelCard:
        """Return this card with the scores of an evaluation.

        Args:
            result: What `upernet.evaluate` returns, or the content of the file that `upernet evaluate --json` writes.

        Raises:
            UpernetError: `result` is not one of these, or has no scores.
        """
        try:
            scores = {
                level: {key: float(result[level][key]) for key in METRICS if result[level].get(key) is not None}
                for level in LEVELS
                if level in result
            }
            photos = ", ".join(f"{count} photos of {source}" for source, count in result["photos"].items())
            scored_on = f"{photos} (split {result['split']})"
        except (KeyError, TypeError, ValueError, AttributeError):
            scores, scored_on = {}, ""
        if not any(scores.values()):
            raise UpernetError("not an evaluation with scores; give what upernet.evaluate returned.")
        return self.model_copy(update={"scores": scores, "scored_on": scored_on})

    def with_default_name(self, name: str) -> ModelCard:
        """Return this card, called `name` if it gives no name."""
        return self if "name" in self.model_fields_set else self.model_copy(update={"name": name})


def card_of(recipe: Recipe, origin: str | None = None) -> ModelCard:
    """Return the card of a model of `recipe`, read from a file of the format `origin` (None: the native one)."""
    card = ModelCard(
        name=recipe.name,
        description=recipe.description,
        short_side=recipe.parse_short_side,
        published_testing=recipe.published_testing,
        license=recipe.license,
        research_only=recipe.research_only,
    )
    return card if origin is None else card.model_copy(update={"origin": origin})


def check_card(values: Mapping[str, object] | ModelCard | None, prefix: str = "card: ") -> ModelCard:
    """Return `values` as a card.

    Args:
        values: the card itself or its keys; None: an empty card.
        prefix: start of the error, which says where the card is.

    Raises:
        UpernetError: a value has the wrong type or is out of range.
    """
    if isinstance(values, ModelCard):
        return values
    try:
        card = ModelCard.model_validate({} if values is None else dict(values))
        card.to_dict()
        return card
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(plain(str(part), KEY_LENGTH) for part in first["loc"])
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise UpernetError(f"{prefix}not valid ({key}: {reason}); correct the card and write it again.") from None
    except (ValueError, RecursionError):  # of `to_dict`
        raise UpernetError(f"{prefix}not valid (it holds what JSON cannot hold, or is nested too deeply).") from None
