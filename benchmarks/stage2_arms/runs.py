"""One job in, one result out, each of its parts in a process of its own: calibrate, train, evaluate.

A result is plain values, written as `result.json` into the job's folder; `check_result` says what it holds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.stage2_arms.children import Cost, read_log, run_module
from benchmarks.stage2_arms.plan import RECORDS_NAME, SPLITS, Job, Settings, write_config
from benchmarks.stage2_arms.table import ARMS, CYCLE
from coordexp.artifacts.files import write_json
from coordexp.coords.types import CoordObject
from coordexp.geometry.norm1000 import pixels_to_bins
from coordexp.matching.duplicates import count_near_duplicates

START = "start"
MAX_NEW_TOKENS = 256
BATCH = 32
RESULT, PLAN = "result.json", "plan.json"
LOG_EVERY = 10
LEAST_STEPS = 20
WAIT_S = 0.5

Say = Callable[[str], None]


class ArmError(Exception):
    """An arm that cannot be run, because another one failed."""


def run_job(settings: Settings, job: Job, say: Say) -> dict[str, Any]:
    """Everything of one arm and seed; raises `ChildError` or `ArmError`. What an unfinished try left is removed."""
    name = f"{job.arm}, seed {job.seed}"
    if job.folder.exists():
        shutil.rmtree(job.folder)
    job.folder.mkdir(parents=True)
    steps, calibrated = plan_steps(settings, job)
    write_json(job.folder / PLAN, {"steps": steps, "calibrated_cpu_s_per_step": calibrated})
    say(f"{name}: {steps} steps" + ("" if calibrated is None else f" at {calibrated:.3f} CPU s"))
    config = write_config(settings, job, "run", steps, LOG_EVERY)
    cost = train(settings, job, config)
    lines = [line for line in read_log(job.folder / "run" / "logging.jsonl") if "loss" in line]
    say(f"{name}: trained for {(cost.per_step or 0.0) * steps:.0f} CPU s, {cost.wall_s:.0f} s in all")
    return {
        "arm": job.arm,
        "seed": job.seed,
        "steps": steps,
        "records": round(sum(line["data/samples_total"] for line in lines)),
        "rollout_records": round(sum(line.get("rollout/samples_total", 0) for line in lines)),
        "train_cpu_s": None if cost.per_step is None else round(cost.per_step * steps, 1),
        "process_cpu_s": round(cost.cpu_s, 1),
        "wall_s": round(cost.wall_s, 1),
        "calibrated_cpu_s_per_step": calibrated,
        "evaluations": evaluate(settings, job.folder, config, job.folder / "run" / "final"),
    }


def run_start(settings: Settings, job: Job, say: Say) -> dict[str, Any]:
    """The checkpoint that every arm begins with, evaluated as theirs are."""
    if job.folder.exists():
        shutil.rmtree(job.folder)
    job.folder.mkdir(parents=True)
    config = write_config(settings, Job("stage1", job.seed, job.folder), "run", LEAST_STEPS, LOG_EVERY)
    found = evaluate(settings, job.folder, config, settings.checkpoint)
    say("start: evaluated")
    return {"arm": START, "seed": job.seed, "steps": 0, "records": 0, "rollout_records": 0, "evaluations": found}


def plan_steps(settings: Settings, job: Job) -> tuple[int, float | None]:
    """Steps of the run, and the CPU seconds of one that they were reckoned from; none where another arm's are taken."""
    other = ARMS[job.arm].steps_of
    if other is not None:
        return wait_for_steps(job.folder.parent / f"{other}-{job.seed}"), None
    config = write_config(settings, job, "calibration", CYCLE + 1, 1)
    cost = train(settings, job, config)
    shutil.rmtree(job.folder / "calibration" / "final")
    if not cost.per_step:
        raise ArmError(f"{job.folder / 'calibration'}: no step could be timed")
    return max(LEAST_STEPS, round(settings.seconds / cost.per_step)), round(cost.per_step, 4)


def wait_for_steps(folder: Path) -> int:
    """The steps that another job has planned, once it has; raises `ArmError` when it fails before."""
    while not (folder / PLAN).exists():
        if (folder / RESULT).exists():
            raise ArmError(f"{folder.name} failed before it had planned its steps, so there is nothing to go by")
        time.sleep(WAIT_S)
    return int(json.loads((folder / PLAN).read_text(encoding="utf-8"))["steps"])


def train(settings: Settings, job: Job, config: Path) -> Cost:
    """One training run; its output goes beside its configuration."""
    folder = job.folder / config.stem
    arguments = ["--config", str(config)]
    return run_module(
        "coordexp.entrypoints.train",
        arguments,
        config.with_suffix(".log"),
        settings.threads,
        folder / "logging.jsonl",
    )


def evaluate(settings: Settings, folder: Path, config: Path, checkpoint: Path) -> dict[str, dict[str, float | None]]:
    """Numbers of a checkpoint on each split, both evaluated side by side."""

    def one(split: str) -> dict[str, float | None]:
        out = folder / "evaluation" / split
        out.parent.mkdir(exist_ok=True)
        arguments = ["--config", config, "--checkpoint", checkpoint, "--out", out]
        arguments += ["--jsonl", settings.data / SPLITS[split] / RECORDS_NAME]
        arguments += ["--max-new-tokens", MAX_NEW_TOKENS, "--batch-size", BATCH]
        arguments += [] if settings.limit is None else ["--limit", settings.limit]
        module = "coordexp.entrypoints.evaluate"
        run_module(module, [str(word) for word in arguments], out.with_suffix(".log"), settings.threads)
        return read_numbers(out)

    with ThreadPoolExecutor(len(SPLITS)) as pool:
        return dict(zip(SPLITS, pool.map(one, SPLITS), strict=True))


def read_numbers(folder: Path) -> dict[str, float | None]:
    """What the tables show of an evaluation's files; near-duplicates are objects, over all images."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "parse_rate": report["parse_rate"],
        "f1": report["detection"]["f1"],
        "precision": report["detection"]["precision"],
        "recall": report["detection"]["recall"],
        "mAP": report["coco"]["mAP"],
        "length": report["lengths"]["generated_tokens_mean"],
        "annotated_length": report["lengths"]["ground_truth_tokens_mean"],
        "length_ratio": report["lengths"]["ratio"],
        "truncated": report["truncated"],
        "near_duplicates": sum(near_duplicates(json.loads(line)) for line in lines),
        "images": report["images"],
    }


def near_duplicates(line: dict[str, Any]) -> int:
    """Near-copies of an earlier object in one answer; boxes in pixels become bins again."""
    size = line["width"], line["height"]
    found = [(item["desc"], pixels_to_bins(item["box"], *size).tolist()) for item in line["predictions"]]
    return count_near_duplicates(CoordObject(desc, "bbox_2d", tuple(bins)) for desc, bins in found).objects
