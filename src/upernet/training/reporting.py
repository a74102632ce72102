"""What a run shows in its folder: `metrics.csv`, curves, a confusion matrix, predictions, and a report."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from upernet.errors import printable
from upernet.evaluation import EvaluationResult, page
from upernet.evaluation.examples import draw_photos, typical_photos, worst_photos
from upernet.evaluation.figures import draw_confusion
from upernet.evaluation.photo_counts import LevelCounts, PhotoCounts
from upernet.evaluation.report import readable_metric
from upernet.evaluation.subject import Subject
from upernet.files import atomic_path, write_text
from upernet.inference.colors import FAINT_INK, INK, PAPER
from upernet.inference.fonts import shortened, sized_font
from upernet.training.curves import draw_curves
from upernet.training.history import IterationRecord, Validation, read_log
from upernet.training.run_folder import CONFUSION, CURVES, LOG, METRICS, PREDICTIONS, RECIPE, REPORT
from upernet.training.state import Progress
from upernet.training.validation import deciding_metric

WORST, TYPICAL = 3, 3
"""Numbers of photos in `predictions.jpg`."""
ROW_WIDTH = 2300
"""Largest width of a row of pictures in `predictions.jpg` in pixels."""
Captioned = tuple[str, Image.Image]


class Reporter:
    """Writes the files that show how a run goes.

    Args:
        folder: Folder of the run.
        metric: The recipe's metric that decides which model is the best; None: the default one.
    """

    def __init__(self, folder: Path, metric: str | None) -> None:
        self.folder, self.metric = folder, metric

    def draw_best(self, subject: Subject, result: EvaluationResult, best: Validation) -> dict[str, Image.Image]:
        """Draw and write the confusion matrix and the predictions of the best model, and return both.

        Args:
            subject: The model, with the weights that were scored.
            result: Its scores.
            best: The same, as they are recorded.
        """
        level = self._level(result, best)
        if result.counts is None or level is None:
            return {}
        counts = result.counts
        confusion = draw_confusion(level.matrix(counts.scored(level)), level.names, level.unit)
        predictions = _draw_predictions(subject, result, counts, level, f"Iteration {best.iteration}")
        _save(self.folder / CONFUSION, confusion)
        _save(self.folder / PREDICTIONS, predictions)
        return {"confusion": confusion, "predictions": predictions}

    def update(self, progress: Progress) -> Image.Image:
        """Write `metrics.csv`, `curves.png` and `report.html`, and return the curves."""
        records = read_log(self.folder / LOG)
        _write_metrics(self.folder / METRICS, records, progress.validations)
        deciding = deciding_metric(progress.validations[-1], self.metric) if progress.validations else None
        curves = draw_curves(records, progress.validations, deciding[0] if deciding else "", progress.kept)
        _save(self.folder / CURVES, curves)
        self._write_report(progress, records, curves, deciding[0] if deciding else None)
        return curves

    def _level(self, result: EvaluationResult, validation: Validation) -> LevelCounts | None:
        """Return the counts of the level, and of the kind of annotation, of the metric that decides."""
        deciding = deciding_metric(validation, self.metric)
        if deciding is None or result.counts is None:
            return None
        level, _, metric = deciding[0].partition(".")
        of_level = [counts for counts in result.counts.levels if counts.level == level]
        matching = [counts for counts in of_level if (counts.kind == "labels") == metric.startswith("top")]
        return next(iter(matching or of_level), None)

    def _write_report(
        self, progress: Progress, records: Sequence[IterationRecord], curves: Image.Image, metric: str | None
    ) -> None:
        finished = progress.done == progress.total
        done = f"all of its {progress.total:,}" if finished else f"{progress.done:,} of its {progress.total:,}"
        sections = [
            page.paragraph(f"The run has done {done} iterations. Its weights at the start: {progress.weights}.")
        ]
        if metric is not None:
            sections.append(_score_table(progress, metric))
        sections += [page.heading("Curves"), page.picture(curves, "curves")]
        for name, heading in ((CONFUSION, "Confusion matrix of the best model"), (PREDICTIONS, "Its predictions")):
            if progress.kept is not None and (self.folder / name).is_file():
                with Image.open(self.folder / name) as picture:
                    drawn = page.picture(picture.convert("RGB"), heading, photo=name == PREDICTIONS)
                sections += [page.heading(heading), drawn]
        if (self.folder / RECIPE).is_file():
            text = (self.folder / RECIPE).read_text(encoding="utf-8")
            lines = "\n".join(page.text(line) for line in text.splitlines())
            sections += [page.heading("Recipe"), f"<pre>{lines}</pre>"]
        write_text(self.folder / REPORT, page.page(f"Run {self.folder.resolve().name}", sections))


def _score_table(progress: Progress, metric: str) -> str:
    last = progress.validations[-1]
    best = next((value for value in progress.validations if value.iteration == progress.kept), last)
    names = [metric, *(name for name in last.metrics if name != metric)]
    columns = ["metric", f"best model (iteration {best.iteration})", f"last (iteration {last.iteration})"]
    rows = [[readable_metric(name), *(_score(value.metrics.get(name)) for value in (best, last))] for name in names]
    return page.table(columns, rows)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _write_metrics(path: Path, records: Sequence[IterationRecord], validations: Sequence[Validation]) -> None:
    """Write one row per validation: its scores, and the mean loss of the iterations since the one before."""
    names = list(dict.fromkeys(name for validation in validations for name in validation.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["iteration", "stage", "learning_rate", "loss", *names])
    before = 0
    for validation in validations:
        since = [record for record in records if before < record["iteration"] <= validation.iteration]
        before = validation.iteration
        rate = f"{since[-1]['learning_rate']:.6g}" if since else ""
        loss = f"{sum(record['loss'] for record in since) / len(since):.6g}" if since else ""
        scores = [_exact(validation.metrics.get(name)) for name in names]
        writer.writerow([validation.iteration, validation.stage, rate, loss, *scores])
    write_text(path, text.getvalue())


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _draw_predictions(
    subject: Subject, result: EvaluationResult, counts: PhotoCounts, level: LevelCounts, title: str
) -> Image.Image:
    """Draw the worst and the typical photos of the level, each with truth and prediction."""
    worst = worst_photos(counts, level, WORST)
    typical = [photo for photo in typical_photos(counts, level, TYPICAL + len(worst)) if photo not in worst][:TYPICAL]
    rows: list[Image.Image] = []
    for heading, photos in (("worst photos", worst), ("typical photos", typical)):
        drawn = [
            (photo.key, picture)
            for photo, picture in draw_photos(subject, result.split, counts, level, photos, result.testing)
        ]
        if drawn:
            rows += [_heading(f"{title}: {heading} of level {level.title}"), *_in_rows(drawn)]
    width, height = max((row.width for row in rows), default=1), sum(row.height for row in rows)
    sheet = Image.new("RGB", (width, max(height, 1)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _heading(text: str) -> Image.Image:
    font = sized_font(24, [text])
    strip = Image.new("RGB", (round(font.getlength(text)) + 40, 56), PAPER)
    ImageDraw.Draw(strip).text((20, 20), text, INK, font)
    return strip


def _in_rows(pictures: Sequence[Captioned]) -> list[Image.Image]:
    """Put captioned pictures side by side, as many as fit into a row."""
    rows: list[list[Image.Image]] = [[]]
    for caption, picture in pictures:
        captioned = Image.new("RGB", (picture.width, picture.height + 24), PAPER)
        captioned.paste(picture, (0, 24))
        caption = printable(caption)
        font = sized_font(15, [caption])
        short = shortened(caption, font, picture.width - 40)
        ImageDraw.Draw(captioned).text((20, 8), short, FAINT_INK, font)
        if rows[-1] and sum(part.width for part in rows[-1]) + captioned.width > ROW_WIDTH:
            rows.append([])
        rows[-1].append(captioned)
    strips: list[Image.Image] = []
    for row in rows:
        strip = Image.new("RGB", (sum(part.width for part in row), max(part.height for part in row)), PAPER)
        left = 0
        for part in row:
            strip.paste(part, (left, 0))
            left += part.width
        strips.append(strip)
    return strips


def _save(path: Path, picture: Image.Image) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=88)
