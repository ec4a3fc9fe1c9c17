"""Evaluate a checkpoint: generate answers, parse them, report F1 and COCO mAP; or report on answers that are there
already (--predictions): python -m coordexp.entrypoints.evaluate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from coordexp.evaluation.types import DetectionReport

GENERATION = (
    "config",
    "checkpoint",
    "max_new_tokens",
    "batch_size",
    "scores",
    "grammar",
    "samples",
    "temperature",
    "top_p",
    "top_k",
)
"""Options of making answers, None or False where they are not given."""


def build_parser() -> argparse.ArgumentParser:
    """Command line of `evaluate`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.evaluate", description=__doc__)
    parser.add_argument("--config", type=Path, help="configuration that the model was trained with")
    parser.add_argument("--checkpoint", type=Path, help="folder of a whole (merged) checkpoint")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="score answers that are there already, without a model: predictions.jsonl of an evaluation, or COCO "
        "results (a list of image_id, category_id, bbox and score) with --annotations",
    )
    parser.add_argument("--jsonl", type=Path, help="records to evaluate on (default: custom.val_jsonl)")
    parser.add_argument("--limit", type=int, help="evaluate on the first N records only")
    parser.add_argument("--out", type=Path, help="folder for report, predictions and gallery")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="compare with the COCO-style file that the records were cooked from, in its own pixels, and write "
        "coco_results.json (default: with the records, in 1000 bins)",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="with COCO results: folder of the annotated images, for the gallery"
    )
    parser.add_argument("--max-new-tokens", type=int, help="token limit of an answer (default 512)")
    parser.add_argument("--batch-size", type=int, help="answers decoded at once (default 32)")
    parser.add_argument(
        "--scores",
        choices=("confidence", "constant"),
        help="what ranks predictions in AP: geometric mean of coord-token probabilities (default), or nothing",
    )
    parser.add_argument(
        "--coco-engine",
        choices=("pycocotools", "hotcoco"),
        default="pycocotools",
        help="what computes COCO's numbers: the one that is quoted (default), or the same digits faster",
    )
    parser.add_argument(
        "--grammar", action="store_true", help="let answers be written by the grammar alone, the sampled ones too"
    )
    sampled = parser.add_argument_group(
        "recall at K", "sampled answers beside the greedy ones tell what was seen and not said from what was not seen"
    )
    sampled.add_argument(
        "--samples", type=int, metavar="K", help="sampled answers for every image, seeded by training.seed"
    )
    sampled.add_argument("--temperature", type=float, metavar="T", help="their temperature, for example 0.7")
    sampled.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest tokens of this mass (1)")
    sampled.add_argument("--top-k", type=int, metavar="N", help="draw from this many of the likeliest tokens (all)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 on success, 1 with a line on stderr for bad input."""
    parser = build_parser()
    args = parser.parse_args(argv)
    # By identity: a 0 that was written is given.
    asked = ((name, getattr(args, name)) for name in GENERATION)
    given = [f"--{name.replace('_', '-')}" for name, value in asked if value is not None and value is not False]
    if args.predictions is not None and given:
        parser.error(
            f"{', '.join(given)}: --predictions FILE makes no answers; leave out what decides how they are made"
        )
    if args.predictions is None:
        missing = [name for name in ("config", "checkpoint") if getattr(args, name) is None]
        if missing:
            parser.error(
                f"--{' and --'.join(missing)} is needed, or --predictions FILE for answers that are there already"
            )
        if args.images is not None:
            parser.error("--images: it is for COCO results, --predictions FILE; records say where their images are")
    return _generate(args) if args.predictions is None else _score(args)


def _generate(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
    from coordexp.artifacts.folders import FolderError, check_writable
    from coordexp.config import load_config
    from coordexp.evaluation.job import INPUT_ERRORS, build_job, evaluate_checkpoint
    from coordexp.evaluation.runner import DEFAULT_MAX_NEW_TOKENS, GenerationSettings
    from coordexp.evaluation.sampling import read_samples
    from coordexp.evaluation.summary import (
        build_sample_table,
        render_decoding,
        render_truth,
        show_progress,
    )
    from coordexp.rollout.grammar import build_expression
    from coordexp.rollout.types import Decoding

    limit = DEFAULT_MAX_NEW_TOKENS if args.max_new_tokens is None else args.max_new_tokens
    try:
        if args.out is not None:
            check_writable(args.out)
        samples = read_samples(args.samples, args.temperature, args.top_p, args.top_k, limit)
        settings = GenerationSettings(
            Decoding(limit), args.scores or "confidence", samples=samples, coco_engine=args.coco_engine
        )
        config = load_config(args.config)
        job = build_job(
            config,
            args.checkpoint,
            settings.constrained(build_expression(config)) if args.grammar else settings,
            jsonl=args.jsonl,
            limit=args.limit,
            decode_batch_size=32 if args.batch_size is None else args.batch_size,
        )
        job = replace(job, annotations=args.annotations)
        with show_progress("generating") as progress:
            evaluation = evaluate_checkpoint(job, progress)
        if args.out is not None:
            write_evaluation(args.out, evaluation, EvaluatedFiles(args.checkpoint, job.jsonl))
    except (*INPUT_ERRORS, FolderError) as error:
        return _refused(error)
    report, asked, backend = evaluation.report, evaluation.settings, evaluation.backend
    console = _console(f"{job.checkpoint} on {job.jsonl}")
    console.print(render_decoding(backend, asked.decoding))
    _show(console, report, render_truth(report, job.annotations))
    if asked.samples is not None:
        console.print(render_decoding(backend, asked.samples.decoding))
        console.print(build_sample_table(report), soft_wrap=False)
    return 0


def _score(args: argparse.Namespace) -> int:
    from coordexp.artifacts.evaluation_files import check_apart, write_content
    from coordexp.artifacts.folders import FolderError, check_writable
    from coordexp.artifacts.given_answers import GivenAnswers, score_given
    from coordexp.data.errors import DataError
    from coordexp.evaluation.report import EvaluationError
    from coordexp.evaluation.summary import build_sample_table, render_given, render_truth

    try:
        if args.out is not None:
            check_apart(check_writable(args.out), args.predictions)
        given = GivenAnswers(args.predictions, args.annotations, args.jsonl, args.images, args.limit, args.coco_engine)
        content = score_given(given)
        if args.out is not None:
            write_content(args.out, content)
    except (DataError, EvaluationError, FolderError) as error:
        return _refused(error)
    report = content.scored.report
    console = _console(f"{args.predictions}, scored without a model")
    console.print(render_given(report))
    _show(console, report, render_truth(report, args.annotations))
    if report.samples is not None:
        console.print(build_sample_table(report), soft_wrap=False)
    if args.out is not None and not content.drawn:
        console.print("gallery.png is not written: --images DIR says where the annotated images are")
    return 0


def _refused(error: Exception) -> int:
    sys.stderr.write(f"evaluate: {error}\n")
    return 1


def _console(title: str) -> Console:
    """A console that has said what is evaluated. No text is markup: a path may hold brackets, a split any name."""
    from rich.console import Console

    from coordexp.evaluation.plain_text import plain

    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    console.print(plain(title))
    return console


def _show(console: Console, report: DetectionReport, truth: str) -> None:
    """Print with what was compared, the numbers, and what they leave to say."""
    from coordexp.evaluation.plain_text import plain
    from coordexp.evaluation.summary import build_summary_table, render_ceiling, render_names

    console.print(plain(truth))
    console.print(build_summary_table(report), soft_wrap=False)
    for line in (render_names(report), render_ceiling(report)):
        if line is not None:
            console.print(line)


if __name__ == "__main__":
    sys.exit(main())
