"""Evaluate a checkpoint: generate answers, parse them, report F1 and COCO mAP: python -m
coordexp.entrypoints.evaluate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordexp.evaluation.job import EvaluationJob
    from coordexp.evaluation.runner import Evaluation


def build_parser() -> argparse.ArgumentParser:
    """Command line of `evaluate`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.evaluate", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="configuration that the model was trained with")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a whole (merged) checkpoint")
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
    parser.add_argument("--max-new-tokens", type=int, default=512, help="token limit of an answer (default 512)")
    parser.add_argument("--batch-size", type=int, default=32, help="answers decoded at once (default 32)")
    parser.add_argument(
        "--scores",
        choices=("confidence", "constant"),
        default="confidence",
        help="what ranks predictions in AP: mean coord-token probability (default), or nothing",
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
    args = build_parser().parse_args(argv)
    from dataclasses import replace

    from coordexp.artifacts.evaluation_files import EvaluatedFiles, write_evaluation
    from coordexp.artifacts.folders import FolderError, check_writable
    from coordexp.config import load_config
    from coordexp.evaluation.job import INPUT_ERRORS, build_job, evaluate_checkpoint
    from coordexp.evaluation.runner import GenerationSettings
    from coordexp.evaluation.sampling import read_samples
    from coordexp.evaluation.summary import show_progress
    from coordexp.rollout.grammar import build_expression
    from coordexp.rollout.types import Decoding

    try:
        if args.out is not None:
            check_writable(args.out)
        samples = read_samples(args.samples, args.temperature, args.top_p, args.top_k, args.max_new_tokens)
        settings = GenerationSettings(
            Decoding(args.max_new_tokens), args.scores, samples=samples, coco_engine=args.coco_engine
        )
        config = load_config(args.config)
        job = build_job(
            config,
            args.checkpoint,
            settings.constrained(build_expression(config)) if args.grammar else settings,
            jsonl=args.jsonl,
            limit=args.limit,
            decode_batch_size=args.batch_size,
        )
        job = replace(job, annotations=args.annotations)
        with show_progress("generating") as progress:
            evaluation = evaluate_checkpoint(job, progress)
        if args.out is not None:
            write_evaluation(args.out, evaluation, EvaluatedFiles(args.checkpoint, job.jsonl))
    except (*INPUT_ERRORS, FolderError) as error:
        sys.stderr.write(f"evaluate: {error}\n")
        return 1
    _show(job, evaluation)
    return 0


def _show(job: EvaluationJob, evaluation: Evaluation) -> None:
    """Print the outcome. No text of it is markup: a path may hold brackets, a split any name."""
    from rich.console import Console

    from coordexp.evaluation.plain_text import plain
    from coordexp.evaluation.summary import (
        build_sample_table,
        build_summary_table,
        render_ceiling,
        render_decoding,
        render_truth,
    )

    report, asked, backend = evaluation.report, evaluation.settings, evaluation.backend
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    console.print(plain(f"{job.checkpoint} on {job.jsonl}"))
    console.print(render_decoding(backend, asked.decoding))
    console.print(plain(render_truth(report, job.annotations)))
    console.print(build_summary_table(report), soft_wrap=False)
    ceiling = render_ceiling(report)
    if ceiling is not None:
        console.print(ceiling)
    if asked.samples is not None:
        console.print(render_decoding(backend, asked.samples.decoding))
        console.print(build_sample_table(report), soft_wrap=False)


if __name__ == "__main__":
    sys.exit(main())
