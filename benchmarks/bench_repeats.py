"""Repeat termination in vLLM's engine: its share of a decode step at batch 32, early and late in long answers.

A process of its own holds the engine with the guard. Each call of the processor is timed inside the step that makes
it, beside an empty processor in the same engine; both are shares of the same steps, so other processes disturb little.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from coordexp.bridges import subprocess_env
from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.rollout.activation import render_activation

BATCH, TOKENS, EDGE = 32, 800, 64
BAR = 0.02
LIMITS = RepeatTerminateConfig(
    enabled=True,
    min_new_tokens=10**6,
    max_consecutive_token_repeats=64,
    ngram_size=64,
    ngram_repeats=2,
    max_object_keys=10**6,
)
"""Everything is watched, and no answer is ended."""
ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "fixtures/tiny-qwen3vl"


def run() -> dict[str, Any]:
    """Shares of a step, guard and empty processor, in the first and the last steps; `passes` compares with the bar."""
    given = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment = subprocess_env({"VLLM_CPU_KVCACHE_SPACE": "4", **given, **render_activation(LIMITS)})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_repeats"], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the engine ended with {done.returncode}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    table = Table("steps", "step ms", "guard µs", "guard, share of a step", "empty processor µs")
    for name in ("early", "late"):
        part = told[name]
        cells = (part["step"] * 1e3, part["guard"] * 1e6, part["share"], part["empty"] * 1e6)
        table.add_row(name, f"{cells[0]:.2f}", f"{cells[1]:.0f}", f"{cells[2]:.4f}", f"{cells[3]:.1f}")
    Console().print(table)
    passes = all(told[name]["share"] - told[name]["empty"] / told[name]["step"] <= BAR for name in ("early", "late"))
    return {**told, "bar": BAR, "passes": passes}


def measure() -> dict[str, Any]:
    """Inside the engine's process: medians over the first and the last `EDGE` steps of 32 answers of 800 tokens."""
    from vllm import LLM, SamplingParams
    from vllm.v1.sample.logits_processor.interface import LogitsProcessor

    from coordexp.bridges.vllm_processors import loaded_processors
    from coordexp.rollout.server_plugin.guard import PROCESSOR
    from coordexp.rollout.server_plugin.processors import RowProcessor

    class Empty(LogitsProcessor):  # type: ignore[misc]
        """The least that a processor can be."""

        def __init__(self, *_: Any) -> None:
            """Nothing to keep."""

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            """Nothing to follow."""

        def apply(self, logits: Any) -> Any:
            return logits

    llm = LLM(
        model=str(CHECKPOINT),
        max_model_len=1024,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=BATCH,
        limit_mm_per_prompt={"image": 0, "video": 0},
        logits_processors=[PROCESSOR, Empty],
    )
    spent = {"guard": 0.0, "empty": 0.0}
    worker = llm.llm_engine.model_executor.driver_worker.worker
    for processor in loaded_processors(worker):
        name = {RowProcessor: "guard", Empty: "empty"}.get(type(processor))
        if name is not None:
            for method in ("update_state", "apply"):
                setattr(processor, method, _timed(getattr(processor, method), spent, name))
    for index in range(BATCH):
        knobs = SamplingParams(max_tokens=TOKENS, ignore_eos=True, temperature=1.0, detokenize=False)
        llm.llm_engine.add_request(str(index), {"prompt_token_ids": list(range(20, 60))}, knobs)
    rows = []
    while llm.llm_engine.has_unfinished_requests():
        spent.update(guard=0.0, empty=0.0)
        started = time.perf_counter()
        llm.llm_engine.step()
        rows.append({"step": time.perf_counter() - started, **spent})
    # The first steps fill prompts.
    parts = {"early": rows[8 : 8 + EDGE], "late": rows[-8 - EDGE : -8]}
    return {
        name: {key: statistics.median(row[key] for row in part) for key in ("step", "guard", "empty")}
        | {"share": statistics.median(row["guard"] / row["step"] for row in part)}
        for name, part in parts.items()
    }


def _timed(function: Any, spent: dict[str, float], name: str) -> Any:
    def call(*args: Any) -> Any:
        started = time.perf_counter()
        result = function(*args)
        spent[name] += time.perf_counter() - started
        return result

    return call


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure()) + "\n")
