"""Types of values that a recipe can hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from upernet.settings import Name, Number, Whole

Split = Literal["train", "held_back", "val", "test"]
MetricRules = Literal["standard", "published"]
"""How scores follow from what was counted. `published` is the evaluation of the released code of Unified Perceptual
Parsing: a class in neither truth nor prediction has an IoU of 0 and counts in means, and parts that are predicted on
pixels whose object is not labeled are false positives."""

# Every number has a lower and an upper limit, far from what is of use, so that no slip of a key makes a machine swap.
Pixels = Annotated[Whole, Field(ge=8, le=16_384)]
Channels = Annotated[Whole, Field(ge=1, le=2048)]
Iterations = Annotated[Whole, Field(ge=1, le=100_000_000)]
Share = Annotated[Number, Field(ge=0, le=1)]
Probability = Annotated[Number, Field(ge=0, lt=1)]
Factor = Annotated[Number, Field(ge=0, le=1e6)]
PositiveFactor = Annotated[Number, Field(gt=0, le=1e6)]
MaskValue = Annotated[Whole, Field(ge=-(2**31), le=2**31)]
PathText = Annotated[str, Field(max_length=4096)]
OptionValue = (
    bool
    | Annotated[Whole, Field(ge=-(2**31), le=2**31)]
    | Annotated[Number, Field(ge=-1e6, le=1e6)]
    | Name
    | Annotated[tuple[Annotated[Whole, Field(ge=-(2**31), le=2**31)], ...], Field(max_length=1000)]
    | None
)

Size = tuple[Annotated[Whole, Field(ge=1, le=16_384)], Annotated[Whole, Field(ge=1, le=16_384)]]
Range = tuple[Annotated[Number, Field(ge=0.001, le=1000)], Annotated[Number, Field(ge=0.001, le=1000)]]


def _one_star(pattern: str) -> str:
    if pattern.count("*") != 1 or "/" in pattern:
        raise ValueError("a name has one *, which stands for the name that a photo and its mask have in common")
    return pattern


NamePattern = Annotated[str, AfterValidator(_one_star)]
"""Name of a file without its suffix, with one `*`."""
