"""A process with vLLM's engine and the repetition guard in it: python -m tests.plugins.repeat_engine FOLDER.

It answers the same prompts free, guarded with room for all, guarded in a cache so small that requests are preempted
(some are aborted), and guarded with prompts that are filled in chunks as well. What came out is in FOLDER/told.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.bridges.vllm_grammar import install_grammar
from coordexp.bridges.vllm_processors import loaded_processors
from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.activation import render_activation
from coordexp.rollout.grammar import find_exact
from coordexp.rollout.server_plugin.guard import PROCESSOR
from coordexp.rollout.server_plugin.processors import RowProcessor, SlotProcessor
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from vllm import LLM

LIMITS = RepeatTerminateConfig(
    enabled=True, min_new_tokens=24, max_consecutive_token_repeats=5, ngram_size=4, ngram_repeats=2, max_object_keys=2
)
COUNT, TOKENS, BATCH = 24, 160, 8
BLOCK, SMALL = 32, 20
"""Tokens of a block, and the blocks of the small cache: fewer than a batch of long answers fills."""
FORMED = r'\{"objects": \[\{"desc": "(red|blue) (circle|square)"\}(, \{"desc": "(red|blue) (circle|square)"\})*\]\}'
"""Answers of one object or more: without a picture the model would write none."""
CHUNK = 64
"""Tokens of a step: fewer than the longest prompt has."""


def build(**more: Any) -> LLM:
    from vllm import LLM

    return LLM(
        model=str(EARLY), max_model_len=512, dtype="float32", enforce_eager=True, max_num_seqs=BATCH, block_size=BLOCK,
        enable_prefix_caching=False, limit_mm_per_prompt={"image": 0, "video": 0}, disable_log_stats=False, **more,
    )  # fmt: skip


def prompts() -> list[dict[str, Any]]:
    """Prompts of words and of several lengths, the longest of more tokens than a step takes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(EARLY, local_files_only=True)
    ids = tokenizer.encode('{"objects": [{"desc": "red circle", "bbox_2d": [', add_special_tokens=False)
    return [{"prompt_token_ids": ids * (1 + 5 * (index % 3)) + ids[: index % 4]} for index in range(COUNT)]


def parameters(index: int, temperature: float, formed: bool = False) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    stop = json.loads((EARLY / "generation_config.json").read_text())["eos_token_id"]
    stop = stop[0] if isinstance(stop, list) else stop
    return SamplingParams(
        # Short answers among long ones, so that rows and slots change hands.
        max_tokens=TOKENS if index % 3 else 12, temperature=temperature, seed=1 + index, ignore_eos=True,
        stop_token_ids=[stop], detokenize=False,
        structured_outputs=StructuredOutputsParams(regex=FORMED) if formed else None,
    )  # fmt: skip


def run(
    llm: LLM, aborted: frozenset[int] = frozenset(), temperature: float = 1.0, *, formed: bool = False
) -> dict[int, list[int]]:
    """Answers by index, by the grammar where they are `formed`; those in `aborted` are given up after some steps."""
    engine, answers = llm.llm_engine, {}
    for index, prompt in enumerate(prompts()):
        engine.add_request(str(index), prompt, parameters(index, temperature, formed))
    steps = 0
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                answers[int(output.request_id)] = list(output.outputs[0].token_ids)
        steps += 1
        if steps == 15:
            engine.abort_request([str(index) for index in aborted])
    return answers


def guard_of(llm: LLM) -> Any:
    """The processor that the engine itself has loaded."""
    worker = llm.llm_engine.model_executor.driver_worker.worker
    return next(each for each in loaded_processors(worker) if isinstance(each, (RowProcessor, SlotProcessor)))


def preemptions(llm: LLM) -> int:
    return int(sum(metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions"))


def main() -> None:
    for name, value in render_activation(LIMITS).items():
        os.environ[name] = value
    install_grammar(find_exact, END_OF_TURN)
    free = build()
    told: dict[str, Any] = {"free": run(free), "greedy": run(free, temperature=0.0), "formed": run(free, formed=True)}
    roomy = build(logits_processors=[PROCESSOR])
    told["guarded"], processor = run(roomy), guard_of(roomy)
    told["triggers"], told["kind"] = processor.triggers, type(processor).__name__
    told["stop"], told["v2"] = processor.guard.stop_id, roomy.llm_engine.vllm_config.use_v2_model_runner
    # Rows and slots that have been used once are used again.
    told["again"] = run(roomy)
    told["formed_guarded"] = run(roomy, formed=True)
    aborted = frozenset(index for index in range(COUNT) if index % 5 == 4)
    tight = build(logits_processors=[PROCESSOR], num_gpu_blocks_override=SMALL)
    told["aborted"] = sorted(aborted)
    told["squeezed"], told["preemptions"] = run(tight, aborted), preemptions(tight)
    told["squeezed_triggers"] = guard_of(tight).triggers
    # Greedy, for this engine draws by no seed of a request whose prompt it fills in chunks on a CPU.
    chunked = build(
        logits_processors=[PROCESSOR],
        num_gpu_blocks_override=SMALL,
        max_num_batched_tokens=CHUNK,
        enable_chunked_prefill=True,
    )
    told["chunked"] = run(chunked, temperature=0.0)
    told["prompts"] = [len(prompt["prompt_token_ids"]) for prompt in prompts()]
    Path(sys.argv[1], "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
