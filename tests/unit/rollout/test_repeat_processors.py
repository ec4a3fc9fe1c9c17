"""Both of vLLM's logits-processor interfaces over one guard: whatever the batch does, an answer's tokens decide."""

from __future__ import annotations

import inspect
import os
import random
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.sample.logits_processor import LogitsProcessor as RowInterface
from vllm.v1.sample.logits_processor.interface import BatchUpdate, MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SlotInterface

from coordexp.bridges.vllm_processors import loaded_processors
from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.rollout.activation import ActivationError, render_activation
from coordexp.rollout.server_plugin.guard import PROCESSOR
from coordexp.rollout.server_plugin.processors import RepeatTerminate, RowProcessor, SlotProcessor, digest_in
from coordexp.rollout.server_plugin.repeats import RepeatGuard, digest_limits
from tests.plugins.stage2 import EARLY

STOP, PROMPT, TOKENS, ROWS = 0, 3, 6, 4
LIMITS = RepeatTerminateConfig(
    enabled=True, min_new_tokens=2, max_consecutive_token_repeats=3, ngram_size=2, ngram_repeats=2, max_object_keys=2
)
PIECES = {1: b"{", 2: b'"', 3: b"a", 4: b'{"', 5: b"b"}


def guard() -> RepeatGuard:
    return RepeatGuard(LIMITS, PIECES.__getitem__, STOP)


def guarded(script: list[int]) -> list[int]:
    """What is left of an answer that would be `script`, which ends in the stop token."""
    detector = guard().watch()
    for place, token in enumerate(script[:-1]):
        if detector.push(token):
            return [*script[: place + 1], STOP]
    return script


@dataclass
class Request:
    """An answer that the model would write, and what has been written."""

    script: list[int]
    answer: list[int] = field(default_factory=list)
    fed: int = 0

    @property
    def done(self) -> bool:
        return bool(self.answer) and self.answer[-1] == STOP

    def scores(self) -> torch.Tensor:
        row = torch.zeros(TOKENS)
        row[self.script[len(self.answer)]] = 5.0
        return row


SCRIPTS = st.lists(st.lists(st.integers(1, 5), max_size=12).map(lambda tokens: [*tokens, STOP]), min_size=1, max_size=9)


class Rows:
    """The engine whose requests keep a row: requests come, go, are preempted, swapped and moved together."""

    def __init__(self) -> None:
        self.processor = RowProcessor(guard())
        self.rows: list[Request | None] = [None] * ROWS

    def step(self, waiting: list[Request], chance: random.Random) -> None:
        added, removed, moved = [], [], []
        for row, request in enumerate(self.rows):
            preempted = request is not None and not request.done and chance.randint(0, 5) == 0
            if request is not None and (request.done or preempted):
                self.rows[row] = None
                removed.append(row)
                if preempted:
                    waiting.insert(0, request)
        for row, request in enumerate(self.rows):
            if request is None and waiting and chance.random() < 0.5:
                self.rows[row] = waiting.pop(0)
                added.append((row, None, [9] * PROMPT, self.rows[row].answer))
                # As the engine does: a row that is taken again at once is not said to be removed.
                removed = [other for other in removed if other != row]
        free = [row for row, request in enumerate(self.rows) if request is None]
        taken = [row for row, request in enumerate(self.rows) if request is not None]
        if free and taken and free[0] < taken[-1]:
            moved.append((taken[-1], free[0], MoveDirectionality.UNIDIRECTIONAL))
            self.rows[free[0]], self.rows[taken[-1]] = self.rows[taken[-1]], None
        elif len(taken) > 1 and chance.random() < 0.5:
            moved.append((taken[0], taken[-1], MoveDirectionality.SWAP))
            self.rows[taken[0]], self.rows[taken[-1]] = self.rows[taken[-1]], self.rows[taken[0]]
        changed = BatchUpdate(ROWS, removed, added, moved) if added or removed or moved else None
        self.processor.update_state(changed)
        logits = torch.stack([torch.zeros(TOKENS) if each is None else each.scores() for each in self.rows])
        chosen = self.processor.apply(logits).argmax(dim=1).tolist()
        for request, token in zip(self.rows, chosen, strict=True):
            # A row whose prompt is still being filled has scores too, and they are thrown away.
            if request is not None and chance.randint(0, 4) != 0:
                request.answer.append(token)


class Slots:
    """The engine whose requests keep a slot and have another row in each step; tokens lie in its own buffers."""

    def __init__(self) -> None:
        states = SimpleNamespace(
            prompt_len=SimpleNamespace(np=np.zeros(ROWS, dtype=np.int32)),
            all_token_ids=SimpleNamespace(gpu=torch.full((ROWS, 64), 77, dtype=torch.int32)),
        )
        self.states: Any = states
        self.processor = SlotProcessor(guard(), self.states)
        self.slots: list[Request | None] = [None] * ROWS

    def step(self, waiting: list[Request], chance: random.Random) -> None:
        for slot, request in enumerate(self.slots):
            if request is not None and (request.done or chance.randint(0, 5) == 0):
                self.slots[slot] = None
                if not request.done:
                    waiting.insert(0, request)
            if self.slots[slot] is None and waiting and chance.random() < 0.5:
                came = self.slots[slot] = waiting.pop(0)
                self.states.prompt_len.np[slot] = PROMPT
                self.states.all_token_ids.gpu[slot, : PROMPT + len(came.answer)] = torch.tensor(
                    [9] * PROMPT + came.answer
                )
                came.fed = 0
                assert self.processor.add_request(slot, None)  # type: ignore[arg-type]
        live_slots = [slot for slot, each in enumerate(self.slots) if each is not None]
        order = chance.sample(live_slots, len(live_slots))
        if not order:
            return
        live = [(slot, self.slots[slot]) for slot in order]
        seen = []
        for _, request in live:
            assert request is not None
            whole = PROMPT + len(request.answer)
            # A request that came back is filled in chunks before it goes on.
            request.fed = whole if request.fed + 4 >= whole else request.fed + 4
            seen.append(request.fed)
        ctx = LogitsContext(
            expanded_idx_mapping=torch.tensor(order),
            idx_mapping=torch.tensor(order),
            idx_mapping_np=np.array(order),
            expanded_local_pos=torch.zeros(len(order), dtype=torch.long),
            input_ids=torch.tensor(
                [self.states.all_token_ids.gpu[slot, n - 1] for slot, n in zip(order, seen, strict=True)]
            ),
            pos=torch.tensor(seen) - 1,
            seq_lens_upper_bound_np=np.array(seen),
        )
        logits = torch.stack([request.scores() for _, request in live if request is not None])
        chosen = self.processor.apply(logits, ctx).argmax(dim=1).tolist()
        for (slot, request), token, n in zip(live, chosen, seen, strict=True):
            assert request is not None
            if n == PROMPT + len(request.answer):
                self.states.all_token_ids.gpu[slot, n] = token
                request.answer.append(token)


@pytest.mark.invariant("ROLL-043")
@pytest.mark.parametrize("kind", [Rows, Slots])
@settings(deadline=None)
@given(scripts=SCRIPTS, seed=st.integers(0, 10**6))
def test_whatever_the_batch_does_each_answer_ends_where_its_own_tokens_say(
    kind: type[Rows | Slots], scripts: list[list[int]], seed: int
) -> None:
    engine, requests, chance = kind(), [Request(script) for script in scripts], random.Random(seed)
    waiting = list(requests)
    for _ in range(4000):
        if all(request.done for request in requests):
            break
        engine.step(waiting, chance)
    assert [request.answer for request in requests] == [guarded(script) for script in scripts]
    # One that comes back to be ended is counted again.
    ended = sum(guard().has_ended(request.answer) for request in requests)
    assert engine.processor.triggers >= ended and (ended or not engine.processor.triggers)


@pytest.mark.invariant("ROLL-043")
def test_scripts_of_all_kinds_are_ended_and_left_alone() -> None:
    """The premise of the test above: the limits do end answers, and not all of them."""
    assert guarded([3, 3, 3, 3, STOP]) == [3, 3, 3, STOP] and guarded([3, 5, 3, 5, 5, STOP]) == [3, 5, 3, 5, STOP]
    assert guarded([1, 3, 1, 3, 5, 1, STOP]) == [1, 3, 1, 3, STOP] and guarded([1, 3, 1, 5, 1, 5, 3, STOP])[-2] == 5
    assert guarded([3, 5, 5, 3, STOP]) == [3, 5, 5, 3, STOP]


@pytest.mark.invariant("ROLL-043")
def test_a_token_that_is_not_read_back_yet_is_waited_for() -> None:
    processor, answer = RowProcessor(guard()), [3, 3, -1]
    processor.update_state(BatchUpdate(1, [], [(0, None, None, answer)], []))  # type: ignore[list-item]
    assert processor.apply(torch.zeros(1, TOKENS)).tolist() == [[0.0] * TOKENS]
    answer[2] = 3
    assert processor.apply(torch.zeros(1, TOKENS))[0, STOP] == 0.0 and processor.triggers == 1
    # Tokens that are taken back are forgotten.
    del answer[1:]
    assert processor.apply(torch.zeros(1, TOKENS)).tolist() == [[0.0] * TOKENS]


@pytest.mark.invariant("ROLL-043")
def test_draft_tokens_are_refused() -> None:
    engine = Slots()
    engine.processor.add_request(0, None)  # type: ignore[arg-type]
    ctx = SimpleNamespace(idx_mapping_np=np.array([0]))
    with pytest.raises(ValueError, match="no repeat_terminate with draft tokens"):
        engine.processor.apply(torch.zeros(2, TOKENS), ctx)  # type: ignore[arg-type]


@pytest.mark.invariant("BRIDGE-015")
@pytest.mark.invariant("ROLL-044")
def test_the_installed_engine_loads_the_class_by_either_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.sample.logits_processor import build_logitsprocs, validate_logits_processors_parameters
    from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors

    for name, value in render_activation(LIMITS).items():
        monkeypatch.setenv(name, value)
    config = EngineArgs(model=str(EARLY), max_model_len=256, enforce_eager=True).create_engine_config()
    rows = build_logitsprocs(config, torch.device("cpu"), False, False, [PROCESSOR])
    (mine,) = [each for each in rows.all if isinstance(each, RowProcessor)]
    assert isinstance(mine, RowInterface) and mine in rows.non_argmax_invariant
    states: Any = SimpleNamespace(
        device=None, max_num_reqs=1, vocab_size=1, all_token_ids=None, prompt_len=None, prefill_len=None, total_len=None
    )
    (slots,) = build_custom_logits_processors(config, states, False, [PROCESSOR])
    assert isinstance(slots, SlotProcessor) and isinstance(slots, SlotInterface)
    worker = SimpleNamespace(model_runner=SimpleNamespace(input_batch=SimpleNamespace(logitsprocs=rows)))
    other = SimpleNamespace(model_runner=SimpleNamespace(sampler=SimpleNamespace(logits_processors=[slots])))
    bare = SimpleNamespace(model_runner=SimpleNamespace(sampler=SimpleNamespace(logits_processors=[])))
    assert digest_in(worker) == digest_in(other) == digest_limits(LIMITS) and digest_in(bare) is None
    assert len(loaded_processors(worker)) > 1
    validate_logits_processors_parameters([PROCESSOR], None)  # type: ignore[arg-type]
    assert issubclass(RepeatTerminate, RowInterface) and issubclass(RepeatTerminate, SlotInterface)
    assert set(inspect.signature(SlotInterface.__init__).parameters) == {"self", "vllm_config", "req_states"}
    assert set(LogitsProcRequestState.__dataclass_fields__) >= {"all_token_ids", "prompt_len"}


@pytest.mark.invariant("ROLL-044")
def test_an_engine_that_is_told_to_load_it_without_limits_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in render_activation(LIMITS):
        monkeypatch.delenv(name, raising=False)
    assert not set(render_activation(LIMITS)) & set(os.environ)
    with pytest.raises(ActivationError, match="its environment holds no limits"):
        RepeatTerminate(None, None, False)  # type: ignore[arg-type]
