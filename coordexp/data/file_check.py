"""JSONL files in, what `check_data` says of them out: a survey of each, files that cannot be read, images of several.

Contract ids: DATA-020, DATA-061.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from coordexp.data.errors import DataError
from coordexp.data.paths import image_root
from coordexp.data.shared_images import ImageSet, find_shared_images
from coordexp.data.survey import FileSurvey, ImageCheck, survey_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Look:
    """How far to look at images, and where they lie: under `root`, else where each file's own are."""

    images: ImageCheck
    root: Path | None
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """Surveys with their records, the folder of each one's images, and a line for each file that could not be read."""

    surveys: list[FileSurvey] = field(default_factory=list)
    roots: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Every problem of every file, each on a line of its own."""
        return [str(problem) for survey in self.surveys for problem in survey.problems]


def check_files(files: Sequence[Path], look: Look, on_line: Callable[[], None]) -> CheckedFiles:
    """Survey each file; one that cannot be read is told of beside the others."""
    checked = CheckedFiles()
    for file in files:
        try:
            root = look.root or image_root(file, look.environ)
            survey = survey_file(file, images=look.images, root=root, keep=True, on_line=on_line)
        except DataError as error:
            checked.unreadable.append(str(error))
        else:
            checked.surveys.append(survey)
            checked.roots.append(root)
    return checked


def shared_image_warnings(checked: CheckedFiles, images: ImageCheck) -> list[str]:
    """A line for each two files that hold the same image: by their bytes, or by pixels where images are opened."""
    if images == "none":
        return []
    sides = [
        (str(survey.path), ImageSet(survey.kept, root))
        for survey, root in zip(checked.surveys, checked.roots, strict=True)
    ]
    lines = []
    for (first, here), (second, there) in combinations(sides, 2):
        shared = find_shared_images(here, there, decoded=images == "open")
        if shared.count:
            lines.append(shared.render(first, second))
    return lines
