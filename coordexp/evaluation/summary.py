"""What an evaluation shows in a terminal: a progress bar on stderr, and a report as a table that the caller prints.

Every text of it is plain, whatever names the data has. Contract ids: EVAL-018, EVAL-044, ART-016.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from coordexp.evaluation.names import most_frequent
from coordexp.evaluation.plain_text import plain
from coordexp.evaluation.report import NAMES_LISTED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from coordexp.evaluation.types import DetectionReport
    from coordexp.rollout.types import BackendSettings, Decoding
    from coordexp.rollout.types import Progress as OnProgress

NAME_LETTERS = 40


@contextmanager
def show_progress(title: str) -> Iterator[OnProgress]:
    """A bar on stderr while answers are generated, silent where stderr is no terminal; yields what a backend calls."""
    console = Console(stderr=True, markup=False, emoji=False)
    columns = (
        TextColumn(title, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("answers"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def build_summary_table(report: DetectionReport) -> Table:
    """One row per number, one column for the whole and one per split."""
    parts = {"all": report, **report.splits}
    table = Table()
    table.add_column("")
    for name in parts:
        table.add_column(Text(plain(name)), justify="right")
    columns = [dict(_rows(part)) for part in parts.values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    for name in names:
        table.add_row(Text(name), *(Text(column.get(name, "0")) for column in columns))
    return table


def build_sample_table(report: DetectionReport) -> Table:
    """Recall of each sampled answer and of the first ones together, for the whole and each split that has samples."""
    parts = {name: part.samples for name, part in {"all": report, **report.splits}.items() if part.samples is not None}
    table = Table(title="recall of sampled answers (IoU 0.5, same desc)", title_justify="left")
    table.add_column("")
    for name in parts:
        table.add_column(Text(f"{plain(name)}: alone"), justify="right")
        table.add_column("with those before", justify="right")
    for number in range(max((len(part.found) for part in parts.values()), default=0)):
        cells = ((part.recalls[number], part.union_recalls[number]) for part in parts.values())
        table.add_row(f"sample {number + 1}", *(_share(value) for pair in cells for value in pair))
    rows = {
        "mean": lambda part: _share(part.mean_recall),
        "greedy": lambda part: _share(part.greedy_recall),
        "objects greedy misses and a sample finds": lambda part: str(part.seen_not_said),
        "objects that no answer finds": lambda part: str(part.not_seen),
        "sampled answers that parse": lambda part: _share(part.parse_rate),
        "sampled answers truncated": lambda part: _share(part.truncated_rate),
        "their length / annotated": lambda part: _share(part.lengths.ratio),
    }
    for name, render in rows.items():
        table.add_row(name, *(cell for part in parts.values() for cell in (render(part), "")))
    return table


def render_headline(report: DetectionReport) -> str:
    """The numbers that matter most, in one line."""
    coco = report.coco.summary
    return (
        f"{report.images} images · parse {_share(report.parse_rate)} · F1 {_share(report.detection.f1)} · "
        f"mAP@.5 {_share(coco['mAP50'])} · mAP {_share(coco['mAP'])}"
    )


def render_truth(report: DetectionReport, annotations: Path | None = None) -> str:
    """What the answers were compared with, `annotations` or the records, in one line."""
    if report.truth == "annotations" and annotations is None:
        return "compared with the annotations that stand beside the answers, in their own pixels"
    if report.truth == "annotations":
        return f"compared with {annotations}, in its own pixels"
    return (
        "compared with the records, in 1000 bins of the cooked images; --annotations FILE compares with the file that "
        "they were cooked from"
    )


def render_given(report: DetectionReport) -> str:
    """Where the scores of answers that were there already come from, in one line."""
    origin = {
        "confidence": "geometric mean probability of the coord tokens, as the file has it",
        "constant": "constant, as in the file",
        "given": "given by the file",
    }
    return f"scores: {origin[report.score_mode]}"


def render_names(report: DetectionReport) -> str | None:
    """The descriptions that mean no category of the annotation file, in one line; None where there are none."""
    if report.names is None or not report.names.unmapped:
        return None
    listed = most_frequent(report.names.unmapped, NAMES_LISTED)
    beyond = len(report.names.unmapped) - len(listed)
    names = ", ".join(f"{plain(desc, NAME_LETTERS)!r} {count}" for desc, count in listed)
    return (
        f"of no category, and wrong wherever they stand: {names}{f' and {beyond} more descriptions' if beyond else ''}"
    )


def render_ceiling(report: DetectionReport) -> str | None:
    """What a perfect answer would score, in one line; None where nothing is out of reach, or nobody computed it."""
    ceiling = report.ceiling
    if ceiling is None or ceiling.reached:
        return None
    scores = {"mAP@.5": ceiling.summary["mAP50"], "mAP@.75": ceiling.summary["mAP75"], "F1": ceiling.f1}
    numbers = " · ".join(f"{name} {_share(value)}" for name, value in scores.items())
    reasons = {
        f"no answer can match {ceiling.unmatchable} objects": ceiling.unmatchable,
        f"{ceiling.without_area} have no area in bins": ceiling.without_area,
        f"{ceiling.images_over_limit} images hold more than {report.coco.limit} objects of a category, and COCO counts "
        f"no more (mAP {_share(ceiling.unlimited['mAP'])} without that limit)": ceiling.images_over_limit,
    }
    why = "; ".join(text for text, count in reasons.items() if count)
    return (
        f"ceiling: a perfect answer in 1000 bins scores mAP {_share(ceiling.summary['mAP'])} · {numbers}"
        f"{f' ({why})' if why else ''}"
    )


def render_decoding(backend: BackendSettings, decoding: Decoding) -> str:
    """With what the answers were made, in one line."""
    if decoding.greedy:
        chosen = "greedy"
    else:
        top_k = "all" if decoding.top_k == -1 else decoding.top_k
        chosen = f"temperature {decoding.temperature:g}, top_p {decoding.top_p:g}, top_k {top_k}"
    return (
        f"{backend.name} · {backend.dtype} · batches of {backend.decode_batch_size} · {chosen} · "
        f"up to {decoding.max_new_tokens} tokens"
        f"{'' if decoding.grammar is None else ' · by the grammar'}"
        f"{' · repetitions ended' if backend.repeat_terminate else ''}"
    )


def _rows(report: DetectionReport) -> Iterator[tuple[str, str]]:
    yield "images", str(report.images)
    yield "objects: annotated", str(report.ground_truth_objects)
    yield "objects: predicted", str(report.predicted_objects)
    if report.parses.answers:
        yield from _answer_rows(report)
    yield "precision (IoU 0.5, same desc)", _share(report.detection.precision)
    yield "recall", _share(report.detection.recall)
    yield "F1", _share(report.detection.f1)
    yield "F1@0.95", _share(report.measures.f1_strict)
    yield "F1@mIoU (0.50 to 0.95)", _share(report.measures.f1_mean)
    yield "near-duplicates, share", _share(report.measures.near_duplicate_rate)
    yield "boxes of the image's size, share", _share(report.measures.image_size_rate)
    yield "F1, boxes alone", _share(report.localization.f1)
    for name in ("mAP", "mAP50", "mAP75", "AR100"):
        yield f"COCO {name}", _share(report.coco.summary[name])
    if report.coco.images_over_limit:
        yield f"images with over {report.coco.limit} predictions of a category", str(report.coco.images_over_limit)
        yield "COCO mAP without that limit", _share(report.coco.unlimited["mAP"])
    if report.regions:
        yield "regions that are not scored", str(report.regions)
        yield "predictions in them", str(report.detection.ignored)
    if report.left_out:
        yield "predictions of what nobody looked for", str(report.left_out)
    yield "predictions with an unknown desc", str(report.unknown_desc)
    if report.names is not None:
        yield "predictions of a category written otherwise", str(sum(report.names.normalized.values()))
        yield "predictions of no category", str(sum(report.names.unmapped.values()))
    for failure, count in report.parses.failures.items():
        yield f"answer does not parse: {failure}", str(count)
    for reason, count in report.parses.dropped.items():
        if count:
            yield f"object dropped: {reason}", str(count)


def _answer_rows(report: DetectionReport) -> Iterator[tuple[str, str]]:
    """What there is to say of answers, which results made elsewhere are not."""
    yield "answers that parse", _share(report.parse_rate)
    yield "answers without a container", str(report.parses.invalid_rollouts)
    yield "answers with a malformed tail", str(report.parses.malformed_tails)
    yield "answers truncated", str(report.parses.truncated)
    yield "answers truncated, share", _share(report.truncated_rate)
    yield "answers cut by the token limit", str(report.token_limit)
    yield "tokens of an answer, mean", _mean(report.lengths.generated)
    yield "tokens of the annotated answer, mean", _mean(report.lengths.ground_truth)
    yield "answers' length / annotated", _share(report.lengths.ratio)
    yield "objects: dropped", str(sum(report.parses.dropped.values()))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _mean(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
