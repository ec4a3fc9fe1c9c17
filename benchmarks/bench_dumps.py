"""What dumps cost of a step, in a run of the tiny model on its own rollouts, each step of it dumped.

The worst case twice over: a real model's steps take many times as long for the same answers, and a run dumps few of its
steps. Dumps of requests are timed beside it: a call with an image of 1 MB and an answer of 1,024 tokens with
log-probabilities, as a share of the same steps.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from coordexp.artifacts.dump_files import DumpBounds, read_lines
from coordexp.rollout.types import Decoding
from coordexp.rollout.vllm_client import Exchange, render_request_config
from coordexp.training.request_dump import RequestDump

BAR = 0.01
STEPS, RECORDS, ROUNDS = 8, 8, 15
TOKENS, IMAGE_BYTES = 1024, 2**20
ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "configs/stage2_rollout_aligned/smoke/hf.yaml"


def run() -> dict[str, Any]:
    """Shares of a step: dumps of one rollout, of all of it, and of one request; `passes` compares with the bar."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder)
        logs = {samples: train(folder, samples) for samples in (1, RECORDS)}
        request = time_requests(folder)
    table, shares = Table("dump", "ms", "step ms", "share of a step"), {}
    for samples, log in logs.items():
        dump, step = (fastest(log, key) for key in ("time/rollout_dump_s", "time/step_s"))
        shares[f"rollouts_{samples}"] = dump / step
        table.add_row(f"{samples} of {RECORDS} rollouts", *cells(dump, step))
    step = fastest(logs[1], "time/step_s")
    shares["request"] = request / step
    table.add_row("1 request", *cells(request, step))
    Console().print(table)
    return {"shares": shares, "bar": BAR, "passes": all(share <= BAR for share in shares.values())}


def fastest(log: list[dict[str, float]], key: str) -> float:
    """Of the steps after the first: where other work shares the cores, whatever is slower waited for one."""
    return min(line[key] for line in log[1:])


def cells(dump: float, step: float) -> tuple[str, str, str]:
    """Both in milliseconds, and the share."""
    return f"{dump * 1e3:.2f}", f"{step * 1e3:.0f}", f"{dump / step:.4f}"


def draw(folder: Path) -> None:
    """Drawn shapes, cooked."""
    entry = "coordexp.entrypoints"
    call(f"{entry}.make_shapes", "--out", str(folder / "raw"), "--seed", "17", "--split", f"train={STEPS * RECORDS}")
    raw = folder / "raw/train"
    given = ["--annotations", str(raw / "annotations.json"), "--images", str(raw), "--out", str(folder / "train")]
    call(f"{entry}.cook", *given, "--max-pixels", "65536")


def train(folder: Path, samples: int) -> list[dict[str, float]]:
    """The log lines of the steps of a run that dumps `samples` rollouts a step."""
    path, output = folder / f"{samples}.yaml", folder / f"run{samples}"
    dump = {"enabled": True, "every_steps": 1, "max_samples": samples}
    training = {"output_dir": str(output), "logging_dir": str(folder / "tb"), "max_steps": STEPS, "save_strategy": "no"}
    document = {
        "extends": str(SHIPPED),
        "model": {"model": str(ROOT / "fixtures/tiny-qwen3vl")},
        "training": {**training, "effective_batch_size": RECORDS, "eval_strategy": "no", "metric_for_best_model": None},
        "custom": {"train_jsonl": str(folder / "train/records.jsonl"), "val_jsonl": None, "val_sample_limit": None},
        "rollout_matching": {"monitor_dump": dump, "max_new_tokens": 96},
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    call("coordexp.entrypoints.train", "--config", str(path))
    (log,) = output.rglob("logging.jsonl")
    return [line for line in read_lines(log) if "time/step_s" in line]


def time_requests(folder: Path) -> float:
    """Seconds of the fastest dump of a call."""
    body = {
        "infer_requests": [
            {
                "messages": [{"role": "user", "content": "<image>" + "Find every object. " * 20}],
                "images": [base64.b64encode(os.urandom(IMAGE_BYTES)).decode()],
                "coordexp": {"seed": 7},
            }
        ],
        "request_config": render_request_config(Decoding(TOKENS)),
    }
    row = {"token": "<|coord_100|>", "logprob": -0.123456789, "bytes": list(b"<|coord_100|>")}
    choice = {
        "message": {"role": "assistant", "content": "<|coord_100|>" * TOKENS},
        "token_ids": list(range(TOKENS)),
        "finish_reason": "stop",
        "logprobs": {"content": [row] * TOKENS},
    }
    reply = {"response": {"choices": [choice], "prompt_token_ids": list(range(TOKENS))}, "coordexp": {"seed": 7}}
    dump = RequestDump(folder, DumpBounds(1, ROUNDS, 1, 4000, 0.0), 17, "a key")
    seconds = []
    for step in range(ROUNDS):
        started = time.perf_counter()
        dump(Exchange("http://127.0.0.1:8000", body, [reply]), Decoding(TOKENS), step)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def call(module: str, *arguments: str) -> None:
    """Run a command of the project on the CPU; its last words in the error where it fails."""
    own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{module} ended with {done.returncode}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    run()
