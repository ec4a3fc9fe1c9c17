"""`python -m benchmarks.stage2_arms`: does stage 2 beat stage 1 continued, for the same CPU seconds?

Each arm is trained from one checkpoint with each seed for `--seconds` CPU seconds, its cosine schedule ending
there, and evaluated on held-out images. Arms are rows of `benchmarks.stage2_arms.table`. The folder `--out` holds
arms.json and arms.md, rewritten whenever a run ends, and a folder for each run. Rollouts are the HF backend's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks.stage2_arms.children import ChildError
from benchmarks.stage2_arms.plan import RECORDS_NAME, SPLITS, Job, Settings
from benchmarks.stage2_arms.report import render
from benchmarks.stage2_arms.runs import RESULT, START, ArmError, run_job, run_start
from benchmarks.stage2_arms.table import ARMS
from coordexp.artifacts.files import write_json, write_text
from coordexp.training.children import Interrupted, Signals, end_descendants

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTINGS, TABLE, PAGE = "settings.json", "arms.json", "arms.md"
DEFAULT_ARMS = "stage1,stage1_steps,mix25"
TURN_S = 0.5


class UsageError(Exception):
    """Arguments that make no comparison; the text says what is allowed."""


def build_parser() -> argparse.ArgumentParser:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stage2_arms", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="folder of the weights that every arm begins with"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val, heldout and heldout_crowded")
    parser.add_argument("--out", type=Path, required=True, help="new folder, or with --resume an earlier one")
    parser.add_argument("--seconds", type=float, default=450.0, help="CPU seconds of training for each run (450)")
    parser.add_argument("--seeds", default="1,2,3", help="comma-separated (1,2,3)")
    parser.add_argument("--arms", default=DEFAULT_ARMS, help=f"comma-separated, of {', '.join(ARMS)} ({DEFAULT_ARMS})")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process (1)")
    parser.add_argument("--limit", type=int, help="evaluate on the first N images of each kind only")
    parser.add_argument("--resume", action="store_true", help="keep finished runs of --out and run the others")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every run ended well, 1 when one failed, 2 for bad arguments, as a shell has it after a signal."""
    options = build_parser().parse_args(argv)
    console = Console(soft_wrap=True, highlight=False)
    begun = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - begun:6.0f} s  {text}", markup=False)

    try:
        settings, jobs = read_options(options)
        comparison = Comparison(settings, options.out.resolve(), say)
        comparison.open(options.resume)
    except UsageError as error:
        sys.stderr.write(f"stage2_arms: {error}\n")
        return 2
    with Signals() as signals:
        try:
            comparison.run(jobs, options.jobs, signals)
        except Interrupted as interruption:
            say("interrupted; what has ended stands in the tables, --resume runs the rest")
            return interruption.exit_code
    console.print((comparison.out / PAGE).read_text(encoding="utf-8"), markup=False)
    return int(any("error" in result for result in comparison.results))


def read_options(options: argparse.Namespace) -> tuple[Settings, list[tuple[str, int]]]:
    """Settings and the pairs of arm and seed, seed by seed; raises `UsageError`."""
    arms = [name.strip() for name in options.arms.split(",") if name.strip()]
    if unknown := sorted(set(arms) - set(ARMS)):
        raise UsageError(f"--arms: no arm called {', '.join(unknown)}; there are {', '.join(ARMS)}")
    for name in arms:
        if (other := ARMS[name].steps_of) is not None and other not in arms:
            raise UsageError(f"--arms: {name} takes its number of steps from {other}; name {other} too")
    # An arm that waits for another's plan comes after it, so that it never holds the last place of the pool.
    arms = sorted(dict.fromkeys(arms), key=lambda name: (ARMS[name].steps_of is not None, list(ARMS).index(name)))
    try:
        seeds = sorted({int(word) for word in options.seeds.split(",")})
    except ValueError:
        raise UsageError(f"--seeds: {options.seeds!r} is no comma-separated list of whole numbers") from None
    for name, least in (("seconds", 0), ("jobs", 1), ("threads", 1)):
        if getattr(options, name) < least:
            raise UsageError(f"--{name}: {getattr(options, name)} is less than {least}")
    needed = [options.data / split / RECORDS_NAME for split in ("train", "val", *SPLITS.values())]
    for path in [options.checkpoint / "config.json", *needed]:
        if not path.is_file():
            raise UsageError(f"{path}: no such file; --checkpoint names weights, --data a folder of cooked splits")
    settings = Settings(
        options.checkpoint.resolve(), options.data.resolve(), options.seconds, options.threads, options.limit
    )
    return settings, [(arm, seed) for seed in seeds for arm in arms]


class Comparison:
    """The runs of one folder and what they came to."""

    def __init__(self, settings: Settings, out: Path, say: Any) -> None:
        self.settings, self.out, self._say = settings, out, say
        self.results: list[dict[str, Any]] = []

    def open(self, resume: bool) -> None:
        """Make the folder, or take up an earlier one of the same settings; raises `UsageError`."""
        path, wanted = self.out / SETTINGS, self.settings.document()
        if path.exists():
            if not resume:
                raise UsageError(f"{self.out}: holds a comparison; give another --out, or --resume to go on with it")
            if (found := json.loads(path.read_text(encoding="utf-8"))) != wanted:
                differing = ", ".join(f"{key} was {found.get(key)}" for key in wanted if found.get(key) != wanted[key])
                raise UsageError(f"{self.out}: of other settings ({differing}); give the same, or another --out")
        elif self.out.exists() and any(self.out.iterdir()):
            raise UsageError(f"{self.out}: not empty, and no comparison; give another --out")
        write_json(path, wanted)

    def run(self, pairs: list[tuple[str, int]], width: int, signals: Signals) -> None:
        """Run what has no result yet, so many side by side; raises `Interrupted` when a signal came."""
        jobs = [Job(START, pairs[0][1], self.out / START)]
        jobs += [Job(arm, seed, self.out / f"{arm}-{seed}") for arm, seed in pairs]
        waiting = [job for job in jobs if not self._keep(job)]
        self._write()
        pool = ThreadPoolExecutor(width)
        pending = {pool.submit(run_start if job.arm == START else run_job, self.settings, job, self._say): job
                   for job in waiting}  # fmt: skip
        try:
            while pending:
                for future in wait(pending, TURN_S, FIRST_COMPLETED).done:
                    self._take(pending.pop(future), future)
                signals.raise_noted()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            end_descendants(signals)

    def _keep(self, job: Job) -> bool:
        """Take up a finished result; a failed one is run again."""
        path = job.folder / RESULT
        if not path.exists():
            return False
        result = json.loads(path.read_text(encoding="utf-8"))
        if "error" in result:
            path.unlink()
            return False
        self.results.append(result)
        return True

    def _take(self, job: Job, future: Future[dict[str, Any]]) -> None:
        try:
            result = future.result()
        except (ChildError, ArmError, OSError) as error:
            result = {"arm": job.arm, "seed": job.seed, "error": str(error)}
            self._say(f"{job.arm}, seed {job.seed}: FAILED: {error}")
        write_json(job.folder / RESULT, result)
        self.results.append(result)
        self._write()

    def _write(self) -> None:
        write_json(self.out / TABLE, {"settings": self.settings.document(), "results": self.results})
        write_text(self.out / PAGE, render(self.results, self.settings.document()))


if __name__ == "__main__":
    sys.exit(main())
