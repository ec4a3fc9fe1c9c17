"""The repetition guard in vLLM's own engine: preemption, chunked prefill, rows used again, aborted requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordexp.bridges import subprocess_env
from coordexp.rollout.server_plugin.repeats import RepeatGuard
from tests.plugins.repeat_engine import BATCH, BLOCK, CHUNK, COUNT, LIMITS, SMALL, TOKENS
from tests.plugins.stage2 import EARLY

pytestmark = [pytest.mark.server, pytest.mark.timeout(400), pytest.mark.xdist_group("repeat_engine")]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("engine")
    environment = subprocess_env(
        {
            **os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT),
        }
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.repeat_engine", str(folder)],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "told.json").read_text())  # type: ignore[no-any-return]


def guard(stop: int) -> RepeatGuard:
    from transformers import AutoTokenizer

    from coordexp.encode.pieces import PieceTable

    tokenizer = AutoTokenizer.from_pretrained(EARLY, local_files_only=True)
    return RepeatGuard(LIMITS, PieceTable(tokenizer).any_piece, stop)


def cut(watching: RepeatGuard, answer: list[int]) -> list[int]:
    """A free answer as the guard leaves it."""
    detector = watching.watch()
    for place, token in enumerate(answer[:-1]):
        if token == watching.stop_id:
            break
        if detector.push(token):
            return [*answer[: place + 1], watching.stop_id]
    return answer


@pytest.mark.invariant("ROLL-045")
def test_only_the_answers_that_repeat_themselves_are_ended_and_the_others_are_the_same(told: dict[str, Any]) -> None:
    watching = guard(told["stop"])
    wanted = {index: cut(watching, answer) for index, answer in told["free"].items()}
    touched = [index for index in wanted if wanted[index] != told["free"][index]]
    assert len(wanted) == COUNT and len(touched) > 4 and COUNT - len(touched) > 4, "the limits end some and not others"
    assert told["guarded"] == wanted and told["again"] == wanted
    ended = [index for index, answer in told["guarded"].items() if watching.has_ended(answer)]
    assert sorted(ended) == sorted(touched) and told["triggers"] == len(ended), (
        "the replay is the processor's own signal"
    )


@pytest.mark.invariant("ROLL-045")
def test_a_prompt_that_is_filled_in_chunks_changes_nothing(told: dict[str, Any]) -> None:
    watching = guard(told["stop"])
    assert max(told["prompts"]) > CHUNK, "no prompt was filled in chunks"
    wanted = {index: cut(watching, answer) for index, answer in told["greedy"].items()}
    assert told["chunked"] == wanted and 0 < sum(wanted[index] != told["greedy"][index] for index in wanted) < COUNT


@pytest.mark.invariant("ROLL-045")
def test_preempted_and_aborted_requests_leave_no_state_behind(told: dict[str, Any]) -> None:
    watching = guard(told["stop"])
    assert told["preemptions"] > 3, "the cache was too large to preempt anything"
    assert BATCH * TOKENS > SMALL * BLOCK
    left = {index: answer for index, answer in told["squeezed"].items() if int(index) not in told["aborted"]}
    assert set(left) == {str(index) for index in range(COUNT) if index not in told["aborted"]}
    assert left == {index: cut(watching, told["free"][index]) for index in left}
    ended = sum(watching.has_ended(answer) for answer in left.values())
    assert ended <= told["squeezed_triggers"] <= ended + len(told["aborted"])


@pytest.mark.invariant("ROLL-045")
def test_an_answer_by_the_grammar_is_ended_inside_of_it(told: dict[str, Any]) -> None:
    watching = guard(told["stop"])
    wanted = {index: cut(watching, answer) for index, answer in told["formed"].items()}
    assert told["formed"] != told["free"] and told["formed_guarded"] == wanted
    assert 0 < sum(wanted[index] != told["formed"][index] for index in wanted) < COUNT


@pytest.mark.invariant("ROLL-044")
def test_the_engine_says_which_interface_it_has_loaded(told: dict[str, Any]) -> None:
    assert told["kind"] == ("SlotProcessor" if told["v2"] else "RowProcessor")
