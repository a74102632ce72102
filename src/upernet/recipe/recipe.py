"""`Recipe`: all settings, and reading them from a YAML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from upernet.errors import UpernetError, did_you_mean, shorten
from upernet.recipe.augmentation import Augmentation, PasteSpec, PublishedTesting, check_batch_size
from upernet.recipe.levels import drop_other_levels
from upernet.recipe.model import ModelSpec
from upernet.recipe.sources import AnySourceSpec, CollageSpec, FolderSpec
from upernet.recipe.terms import TermsText
from upernet.recipe.training import CalibrationSpec, LossSpec, TrainingSpec
from upernet.recipe.values import PathText
from upernet.settings import Name, Settings, SettingsError, Whole, check_settings, read_settings
from upernet.taxonomy import LevelName, Taxonomy, load_taxonomy

RECIPES = Path(__file__).parents[1] / "recipes"


class Recipe(Settings):
    """A recipe: all settings of a model, its data, training and evaluation."""

    name: Name = ""
    """Name of the recipe; set from the file name."""
    description: str
    """One sentence about the model, for people."""
    license: TermsText = ""
    """Terms of the trained weights, which their card states: an SPDX license expression, or words."""
    research_weights: bool = False
    """Whether the published weights allow research or non-commercial use only, if `sources` do not say so."""
    taxonomy: PathText
    """Name of a bundled taxonomy, or the path of a YAML file relative to the recipe."""
    levels: Annotated[tuple[LevelName, ...], Field(min_length=1)] | None = None
    """The levels of the taxonomy that the model recognizes; what `sources`, `training` and the rest say about other
    levels is left out. None: all of them."""
    model: ModelSpec
    """The architecture."""
    parse_short_side: Whole | None = Field(default=None, ge=32, le=16_384)
    """Short side in pixels to which larger photos are reduced before they are parsed. None: photos keep their size."""
    published_testing: PublishedTesting | None = None
    """What `upernet parse --scales published` does. None: nothing was published."""
    data: PathText | None = None
    """Folder that contains the folders of the sources, relative to the recipe; `--data` overrides it."""
    sources: dict[Name, AnySourceSpec] = {}
    """Name of a source -> its settings, which depend on its `kind`."""
    loss: LossSpec = LossSpec()
    """The loss of all stages that do not have their own."""
    training: TrainingSpec | None = None
    """The training. None: the recipe describes a model that it does not train."""
    calibration: CalibrationSpec = CalibrationSpec()
    """How the confidence thresholds are set."""

    def load_taxonomy(self) -> Taxonomy:
        """Return the levels and classes of the model.

        Raises:
            UpernetError: There is no such taxonomy, its file is wrong, or it does not have the levels of the recipe.
        """
        taxonomy = load_taxonomy(self.taxonomy)
        return taxonomy if self.levels is None else taxonomy.subset(self.levels)

    @property
    def training_data(self) -> dict[str, FolderSpec]:
        """The sources whose photos the stages train on, by themselves or in collages, in the order of the recipe."""
        stages = self.training.stages if self.training else ()
        trained = {name for stage in stages for name in stage.sources}
        for name in tuple(trained):
            spec = self.sources[name]
            if isinstance(spec, CollageSpec):
                trained |= {spec.textures, *spec.surroundings}
        return {name: spec for name, spec in self.sources.items() if name in trained and isinstance(spec, FolderSpec)}

    @property
    def research_only(self) -> bool:
        """Whether the terms of the weights or of the training data allow research or non-commercial use only."""
        return self.research_weights or any(spec.terms.research_only for spec in self.training_data.values())

    @model_validator(mode="after")
    def _stages_name_sources(self) -> Recipe:
        for number, stage in enumerate(self.training.stages if self.training else ()):
            place = ("training", "stages", number)
            if not stage.sources:
                raise SettingsError("the stage has no source to sample; name at least one", *place, "sources")
            for key in ("sources", "augmentation"):
                for source in getattr(stage, key):
                    if source not in self.sources:
                        known = ", ".join(self.sources)[:1000] or "none"
                        message = f"stage {stage.name} names unknown source {source} (sources: {known})"
                        raise SettingsError(message, *place, key)
            for name, augmentation in stage.augmentation.items():
                self._check_partners(augmentation, *place, "augmentation", name)
                check_batch_size(self.sources[name].batch_size, augmentation, *place, "augmentation", name, "crop")
        return self

    @model_validator(mode="after")
    def _collages_name_sources(self) -> Recipe:
        for name, spec in self.sources.items():
            if not isinstance(spec, CollageSpec):
                continue
            folders = [other for other, found in self.sources.items() if isinstance(found, FolderSpec)]
            for key, others in (("textures", [spec.textures]), ("backgrounds", [*spec.surroundings])):
                for other in others:
                    if other not in folders:
                        known = ", ".join(folders)[:1000] or "none"
                        message = f"{other} is not a source with photos of its own (those: {known})"
                        raise SettingsError(message, "sources", name, key)
            textures = self.sources[spec.textures]
            if isinstance(textures, FolderSpec) and spec.level not in textures.annotated:
                message = f"{spec.textures} does not annotate level {spec.level}; name a source with its image labels"
                raise SettingsError(message, "sources", name, "textures")
        return self

    @model_validator(mode="after")
    def _pastes_name_sources(self) -> Recipe:
        for name, source in self.sources.items():
            self._check_partners(source.augmentation, "sources", name, "augmentation")
        return self

    def _check_partners(self, augmentation: Augmentation, *place: str | int) -> None:
        for key in ("paste", "paste_onto"):
            spec: PasteSpec | None = getattr(augmentation, key)
            for name in spec.sources if spec else ():
                if name not in self.sources:
                    known = ", ".join(self.sources)[:1000]
                    raise SettingsError(f"there is no source {name} (sources: {known})", *place, key, "sources")


def list_recipes() -> list[str]:
    """Return the names of the bundled recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a bundled recipe by name, or any recipe by the path of its YAML file.

    Raises:
        UpernetError: There is no such recipe, or the file is wrong; the message names the file, line and key.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_path}.yaml"
        if not os.path.isfile(path):
            known = list_recipes()
            name = str(name_or_path)
            if file := _meant(Path(name_or_path)):
                raise UpernetError(f"{shorten(name)}: no recipe; did you mean {file}?")
            raise UpernetError(
                f"unknown recipe {shorten(name)}{did_you_mean(name, known)}: give the path of a .yaml file or one of "
                f"{', '.join(known)}."
            )
    recipe = read_settings(path, Recipe)
    taxonomy, data = recipe.taxonomy, recipe.data
    sources = {name: _with_absolute_lists(source, path.parent) for name, source in recipe.sources.items()}
    if taxonomy.endswith((".yaml", ".yml")):
        taxonomy = str(path.parent / taxonomy)
    if data is not None:
        data = os.path.abspath(path.parent / os.path.expanduser(data))
    update = {"name": path.stem, "taxonomy": taxonomy, "data": data, "sources": sources}
    return without_other_levels(recipe.model_copy(update=update))


def without_other_levels(recipe: Recipe) -> Recipe:
    """Return a recipe without what it says about levels that are not among its `levels`.

    Sources without a level that is left are dropped, and so are stages that train a dropped level or have no source.

    Raises:
        UpernetError: What is left is no recipe, for instance because a stage pastes photos of a dropped source.
    """
    if recipe.levels is None or not recipe.sources:
        return recipe
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    drop_other_levels(values, {*recipe.levels})
    return check_settings(values, Recipe, f"recipe {recipe.name} with levels {', '.join(recipe.levels)}")


def _with_absolute_lists(source: AnySourceSpec, folder: Path) -> AnySourceSpec:
    """Return the settings of a source with lists that are relative to `folder` made absolute."""
    if not isinstance(source, FolderSpec):
        return source
    lists = {split: os.path.abspath(folder / file) for split, file in source.lists.items()}
    return source.model_copy(update={"lists": lists})


def _meant(path: Path) -> Path | None:
    """Return the recipe in a folder, such as that of a run, or the file whose suffix was left out, if there is one."""
    if not path.name:
        return None
    candidates = path / "recipe.yaml", path.with_name(f"{path.name}.yaml")
    return next((file for file in candidates if os.path.isfile(file)), None)


def data_folder(recipe: Recipe, given: str | Path | None) -> Path:
    """Return the folder with the data of a recipe: the given one or, if that is None, the recipe's own.

    Raises:
        UpernetError: Neither is set.
    """
    folder = given if given is not None else recipe.data
    if folder is None:
        raise UpernetError(
            f"recipe {recipe.name} does not say where its data is; give --data DIR, or set `data` in the recipe."
        )
    return Path(folder)
