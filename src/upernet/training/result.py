"""The models in the folder of a run: the best one, the last one, and their thresholds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file

from upernet.checkpoints import card_of, save_checkpoint
from upernet.checkpoints.header import card_in
from upernet.data.sources import SourceMissing, open_source
from upernet.distributed import World, broadcast_from_main
from upernet.errors import UpernetError
from upernet.evaluation.calibration import Calibration, calibrate, check_calibration
from upernet.evaluation.familiarity import fit_familiarity
from upernet.evaluation.results import EvaluationResult
from upernet.models import UPerNet
from upernet.recipe import Recipe
from upernet.training.run_folder import LAST, MODEL


class ResultWriter:
    """Writes `model.safetensors`, the result of a run, and with validation `last.safetensors`.

    Args:
        folder: Folder of the run.
        recipe: Its recipe.
        data_dir: Folder with its data.
        model: Its model.
        world: This process among all processes; the main one writes.
        log: Receives lines for the user.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, data_dir: Path, model: UPerNet, world: World, log: Callable[[str], None]
    ) -> None:
        self.recipe, self.data_dir, self.model, self.world, self.log = recipe, data_dir, model, world, log
        self.card = card_of(recipe)
        self.path, self.last_path = folder / MODEL, folder / LAST

    def check(self) -> None:
        """Check that the thresholds can be calibrated after training.

        Raises:
            UpernetError: They cannot: a level or source does not exist, or a level has no photos held back.
        """
        check_calibration(self.model.taxonomy, self.recipe)
        targets = self.recipe.calibration.target_precision
        if not targets:
            return
        levels: set[str] = set()
        for name, spec in self.recipe.sources.items():
            if "held_back" in spec.split_names:
                try:
                    source = open_source(
                        name, spec, self.model.taxonomy, self.data_dir, "held_back", self.recipe.sources
                    )
                    levels |= {*source.levels}
                except SourceMissing:
                    continue
        for level in targets:
            if level not in levels:
                raise UpernetError(
                    f"calibration.target_precision.{level}: no source holds photos back that are labeled at this "
                    "level; set `held_back: 0.1` in a source that annotates it, or take the level out."
                )

    def start_from(self, research_only: bool) -> None:
        """Note whether the weights that the run started from are for research or non-commercial use only."""
        self.card = self.card.with_terms(self.card.license, self.card.research_only or research_only)

    def keep_best(self, result: EvaluationResult) -> None:
        """Write the current weights as the best so far, with their scores in the card."""
        if self.world.is_main:
            save_checkpoint(self.path, self.model, self.card.with_scores(result))

    def finish(self, has_best: bool, half: bool) -> Path:
        """Write the models, calibrate the thresholds of the result, and fit its familiarity, if the recipe asks for it.

        The result is written before its thresholds are known, and again afterwards.

        Args:
            has_best: The best model has been written; the current one is the last.
            half: Store matrices as float16.

        Raises:
            UpernetError: The calibration fails, or a file cannot be written.
        """
        self.model.eval()
        if has_best:
            self._write(self.last_path, half)
            if self.world.is_main:
                self.model.load_state_dict(load_file(self.path), strict=False)  # without the auxiliary head
                best = card_in(self.path)
                assert best is not None
                self.card = self.card.model_copy(update={"scores": best.scores, "scored_on": best.scored_on})
            broadcast_from_main(self.model.state_dict().values())
        self._write(self.path, half)
        spec, device = self.recipe.calibration, str(self.world.device)
        if spec.target_precision or spec.familiar:
            found = calibrate(self.model, self.recipe, self.data_dir, device)
            if spec.familiar and self.world.is_main:
                fit_familiarity(self.model, self.recipe, self.data_dir, device)
            self._write(self.path, half, found)
        self.log(f"Wrote {self.path}")
        return self.path

    def _write(self, path: Path, half: bool, calibration: Calibration | None = None) -> None:
        if self.world.is_main:
            card = self.card
            if calibration is not None:
                card = card.model_copy(update=asdict(calibration))
            save_checkpoint(path, self.model, card, half)
