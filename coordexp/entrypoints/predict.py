"""Answer pictures that have no annotations: JSON lines, COCO results, drawn pictures: python -m
coordexp.entrypoints.predict.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """Command line of `predict`."""
    parser = argparse.ArgumentParser(prog="python -m coordexp.entrypoints.predict", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a whole (merged) checkpoint")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a folder (with those below it), a file, or a glob in quotes such as 'photos/**/*.jpg'",
    )
    parser.add_argument("--config", type=Path, required=True, help="configuration that the model was trained with")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="new folder for the answers, or that of a call to go on with",
    )
    parser.add_argument("--limit", type=int, help="the first N pictures only, sorted by name")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="token limit of an answer (default 512)")
    parser.add_argument("--batch-size", type=int, default=32, help="answers decoded, and written, at once (default 32)")
    parser.add_argument("--grammar", action="store_true", help="let answers be written by the grammar alone")
    parser.add_argument("--no-pictures", action="store_true", help="draw no pictures")
    parser.add_argument(
        "--server", metavar="URL", help="rollout server that runs the checkpoint (default: load it in this process)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run; 0 where every picture was answered, 1 with lines on stderr for bad input and for pictures that were not."""
    args = build_parser().parse_args(argv)
    from coordexp.artifacts.folders import FolderError
    from coordexp.artifacts.predicting import PredictionError, predict
    from coordexp.config import load_config
    from coordexp.data.picture_search import find_pictures
    from coordexp.evaluation.job import INPUT_ERRORS
    from coordexp.evaluation.prediction import Predictor, build_prediction_job
    from coordexp.evaluation.report import EvaluationError
    from coordexp.evaluation.summary import show_progress
    from coordexp.rollout.grammar import build_expression
    from coordexp.rollout.types import Decoding

    try:
        if args.limit is not None and args.limit < 1:
            raise EvaluationError(f"the limit must be at least 1, got {args.limit}")
        config = load_config(args.config)
        grammar = build_expression(config) if args.grammar else None
        decoding = Decoding(args.max_new_tokens, grammar=grammar)
        job = build_prediction_job(config, args.checkpoint, decoding, args.batch_size, args.server)
        names = find_pictures(args.images, args.out)[: args.limit]
        with show_progress("answering") as progress:
            summary = predict(Predictor(job), names, args.out, draw=not args.no_pictures, progress=progress)
    except (*INPUT_ERRORS, FolderError, PredictionError) as error:
        sys.stderr.write(f"predict: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"predict: interrupted; the same command goes on with what stands in {args.out}\n")
        return _INTERRUPTED
    return _show(summary, args.out)


def _show(summary: Mapping[str, Any], folder: Path) -> int:
    """Say what came of it; the exit code."""
    from coordexp.evaluation.plain_text import plain

    left = summary["unanswered"]
    for each in left:
        sys.stderr.write(f"predict: {plain(each['message'])}\n")
    faults = sum(summary["parse_failures"].values())
    objects, limit = sum(summary["objects"].values()), summary["token_limit"]
    sys.stdout.write(
        f"{summary['answered']} of {summary['pictures']} pictures answered: {objects} objects; {faults} answers do not "
        f"parse as a whole, {limit} ran into the token limit\n{plain(str(folder))}\n"
    )
    if left:
        sys.stderr.write(f"predict: {len(left)} of {summary['pictures']} pictures were not answered; see above\n")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
