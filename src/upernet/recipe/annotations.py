"""Settings of how a source annotates a level."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag, field_validator

from upernet.recipe.values import MaskValue, NamePattern, PathText, PositiveFactor
from upernet.settings import Name, Settings
from upernet.taxonomy import LevelName

OneOf = Annotated[tuple[Name, ...], Field(min_length=2, max_length=1000)]
"""Classes, one of which is right."""


def values_are_names_too(classes: Any) -> Any:
    """Turn the keys of a mapping into text: YAML reads the mask value `7` as a number."""
    if classes is None:
        return {}
    if isinstance(classes, dict):
        items = list(cast("dict[Any, Any]", classes).items())
        for key, _ in items:
            if isinstance(key, bool):
                raise ValueError(f"YAML reads {str(key).lower()} (and yes, no, on, off) as a truth value; quote it")
        return {str(key) if isinstance(key, int) else key: value for key, value in items}
    return classes


class AnnotationSpec(Settings):
    """How a source annotates one level."""

    classes: dict[Name, Name | OneOf | None] = {}
    """Source class (a name, or the value of a mask) -> taxonomy class; null: unknown. A list of taxonomy classes means
    that the pixels of a mask are one of them; in scoring, the first stands for all of them. A class that is not listed
    is mapped to the taxonomy class of the same name; case is ignored."""
    elsewhere: Literal["unknown", "none_of_these"] = "unknown"
    """What the source says about the pixels of a mask whose class is mapped to null: nothing, or that they are none of
    the classes that the source maps to. Then the sum of the probabilities of those classes is pushed down."""
    supervision: Literal["broadcast", "pooled"] = "pooled"
    """How an image label trains a dense level: at every pixel, or through the mean of the logits."""
    implies: dict[LevelName, Name | dict[Name, Name | OneOf]] = {}
    """Implied labels of other levels. A class name: all photos have it. A mapping `class -> class`: a taxonomy class of
    this level implies that class of the other level (`*`: any labeled pixel or photo does). A list of classes means
    that the pixels are one of them, which trains but is not scored."""

    _values_are_names_too = field_validator("classes", mode="before")(values_are_names_too)


class MaskValueSpec(AnnotationSpec):
    """A dense level that is annotated by masks."""

    ignore: tuple[MaskValue, ...] = (255,)
    """Values of a mask that mean unknown; not used for color masks."""
    colors: dict[Name, Name | None] | Literal["taxonomy"] | None = None
    """For color masks: color (`"#rrggbb"` or `"r,g,b"`) -> source class; null: unknown. `taxonomy`: each class has
    its color in the taxonomy. None: the values of a mask are class numbers."""


class PseudoLabelSpec(Settings):
    """Masks that a network has made. They are used in training only, at pixels that the source does not label."""

    folder: PathText
    """Folder of the masks, below the data directory; `{split}` stands for the split's folder name. The mask of a photo
    has the same path below it as the photo has below the split's folder of photos, with the suffix `.png`. A photo
    without a mask has no pseudo-labels."""
    classes: dict[Name, Name | OneOf | None] = {}
    """As `classes` of the source; values go by the nearest `labels.txt` in `folder` or above."""
    ignore: tuple[MaskValue, ...] = (0, 255)
    """Values of a mask that mean unknown."""
    weight: PositiveFactor = 1.0
    """Factor of the loss of these pixels."""

    _values_are_names_too = field_validator("classes", mode="before")(values_are_names_too)


class MaskSpec(MaskValueSpec):
    """A dense level whose masks have a folder of their own."""

    folder: PathText = "annotations"
    """Folder of the masks, below `path`; `{split}` stands for the split's folder name."""
    name: NamePattern = "*"
    """Name of a mask without its suffix; `*` is the name of its photo. `*_mask`: `a.jpg` has the mask `a_mask.png`."""
    optional: bool = False
    """True: in a photo without a mask, the level is unknown. False: each photo needs one."""


class TableColumnSpec(AnnotationSpec):
    """A level with one label per photo, which is a column of the source's table."""

    column: Name = "label"
    """Column (CSV) or key (JSONL) that contains the class."""


class TableSpec(TableColumnSpec):
    """A level with one label per photo, which is a column of a table of its own."""

    table: PathText
    """CSV or JSONL file beside the folder of the photos; see `LabelTableSpec`."""
    optional: bool = False
    """True: in a photo that the table does not list, the level is unknown. False: the table must list each photo."""


class MaskColumnSpec(MaskValueSpec):
    """A dense level whose masks are listed in a column of the source's table."""

    masks: Name
    """Column (CSV) or key (JSONL) with the paths of the masks, relative to the folder of the table; empty: the level is
    unknown in the photo. Values go by `labels.txt` in the folder of the masks or the one above."""


def _mask_or_class_column(values: Any) -> str:
    """Return the tag of an annotation of `LabelTableSpec`, given as YAML values or as a spec."""
    has_masks = "masks" in values if isinstance(values, dict) else isinstance(values, MaskColumnSpec)
    return "column of masks" if has_masks else "column of classes"


LabelTableAnnotation = Annotated[
    Annotated[MaskColumnSpec, Tag("column of masks")] | Annotated[TableColumnSpec, Tag("column of classes")],
    Discriminator(_mask_or_class_column),
]


def _mask_or_table(values: Any) -> str:
    """Return the tag of an annotation of `MaskFolderSpec`, given as YAML values or as a spec."""
    has_table = "table" in values if isinstance(values, dict) else isinstance(values, TableSpec)
    return "spec of a table" if has_table else "spec of masks"


MaskFolderAnnotation = Annotated[
    Annotated[MaskSpec, Tag("spec of masks")] | Annotated[TableSpec, Tag("spec of a table")],
    Discriminator(_mask_or_table),
]
