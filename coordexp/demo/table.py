"""What the quick start shows in the end: measured checkpoints in, one table and a verdict on each stage out. EVAL-018,
EVAL-030.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from coordexp.demo.measure import Measured

_ROWS = {
    "parse rate": lambda m: _share(m.report.parse_rate),
    "truncated": lambda m: _share(m.report.truncated_rate),
    "length ratio": lambda m: _share(m.report.lengths.ratio),
    "near-duplicates": lambda m: str(m.near_duplicates),
    "F1 (IoU 0.5)": lambda m: _share(m.report.detection.f1),
    "mAP@.5": lambda m: _share(m.report.coco.summary["mAP50"]),
    "mAP@[.5:.95]": lambda m: _share(m.mean_precision),
}
CAPTION = "length ratio: tokens of the answers by those of the annotated answers\nnear-duplicates: boxes written again"


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """A stage's checkpoint before and after it, measured on the same sets of images, and where its weights lie.

    The set `judged` is of the kind that the stage trains on, mostly. `decides` says whether the exit code asks for an
    improvement there.
    """

    name: str
    judged: str
    before: Mapping[str, Measured]
    after: Mapping[str, Measured]
    checkpoint: Path
    decides: bool = True

    @property
    def improved(self) -> bool:
        """Whether COCO mAP on the images it is judged by is higher after the stage."""
        return self.after[self.judged].mean_precision > self.before[self.judged].mean_precision

    @property
    def verdict(self) -> str:
        """One line: mAP on every set, and whether the stage has improved the one it is judged by."""
        others = [name for name in self.before if name != self.judged]
        told = "improved" if self.improved else "NOT improved"
        parts = [f"{self._change(self.judged)}, {told}", *(self._change(name) for name in others)]
        return f"{self.name}: mAP {'; '.join(parts)}"

    def _change(self, name: str) -> str:
        before, after = self.before[name].mean_precision, self.after[name].mean_precision
        return f"on {name} images {before:.3f} -> {after:.3f}"


def build_outcome_table(stages: Sequence[StageOutcome]) -> Table:
    """A row for each number; columns by set of images, then by stage, before and after it.

    Headings leave out what all columns share. It fits 80 characters.
    """
    sets = tuple(stages[0].before)
    table = Table(
        title="held-out images, never trained on",
        title_justify="left",
        caption=CAPTION,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    columns = []
    for images in sets:
        for stage in stages:
            for when, measured in (("before", stage.before), ("after", stage.after)):
                shown = [images] * (len(sets) > 1) + [stage.name] * (len(stages) > 1) + [when]
                table.add_column("\n".join(shown), justify="right", no_wrap=True)
                columns.append(measured[images])
    for name, render in _ROWS.items():
        table.add_row(name, *(render(measured) for measured in columns))
    return table


def gallery_lines(stages: Sequence[StageOutcome]) -> list[str]:
    """Where the pictures are, a line for each column of the table."""
    return [
        f"gallery  {images}, {when} {stage.name}: {measured[images].gallery}"
        for stage in stages
        for when, measured in (("before", stage.before), ("after", stage.after))
        for images in measured
    ]


def _share(value: float | None) -> str:
    return f"{value or 0.0:.3f}"
