"""A run in, its rollout backend over an engine in this process out. Contract ids: TRAIN-070..TRAIN-072.

Only wiring: the parts are those of `coordexp.rollout` and `coordexp.bridges.inprocess_engine`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from coordexp.bridges.inprocess_engine import EngineError, EngineSettings, InProcessEngine, build_engine
from coordexp.bridges.request_seeds import AnswerRules
from coordexp.bridges.vllm_grammar import install_grammar
from coordexp.config import resolve_input
from coordexp.config.rollout_sections import VllmColocateConfig
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.forward.unwrap import unwrap_model
from coordexp.rollout.activation import render_activation
from coordexp.rollout.canary import Canary
from coordexp.rollout.colocate import NOT_LOADED, ColocateBackend, EngineAnswers, WeightLoader, build_prove
from coordexp.rollout.grammar import find_exact
from coordexp.rollout.scoring import TeacherScorer
from coordexp.rollout.server_flags import server_dtype, vllm_sections
from coordexp.rollout.server_plugin.guard import PROCESSOR, build_guard
from coordexp.rollout.server_plugin.liveness import LOGPROBS_MODE, describe_engine
from coordexp.rollout.server_plugin.repeats import digest_limits
from coordexp.rollout.types import RolloutError
from coordexp.rollout.vllm_client import Prompting
from coordexp.training.learner_policy import LearnerPolicy, canary_noise, canary_request

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.training.build import Run

_LOG = logging.getLogger(__name__)


def build_colocate_backend(run: Run) -> ColocateBackend:
    """The backend of a run whose engine is in this process. Raises `RolloutError` for an engine that cannot be."""
    config, encoder = run.config, run.foundation.encoder
    section, vllm = vllm_sections(config)
    engine = start_engine(config)
    prompting = Prompting(tuple(encoder.messages("<image>")), encoder.tokenizer)
    repeats = section.repeat_terminate
    guard = build_guard(repeats, encoder.tokenizer) if repeats.enabled else None
    answers = EngineAnswers(engine, prompting, section.decode_batch_size, vllm.max_model_len, guard)
    scorer = TeacherScorer(unwrap_model(run.learner.model), encoder.processor)
    canary = Canary(canary_request(run), scorer, canary_noise(config), NOT_LOADED)
    dtype = server_dtype(config)
    loader = WeightLoader(
        engine, LearnerPolicy(run.learner.model, run.motion), getattr(torch, dtype), build_prove(answers, canary)
    )
    return ColocateBackend(answers, loader, scorer, dtype)


def start_engine(config: Config) -> InProcessEngine:
    """The engine with the run's checkpoint, asleep where it can be: the first optimizer step may come before the first
    rollout.
    """
    repeats = vllm_sections(config)[0].repeat_terminate
    more = {"logits_processors": [PROCESSOR]} if repeats.enabled else {}
    rules = AnswerRules(END_OF_TURN, LOGPROBS_MODE, more)
    install_grammar(find_exact, END_OF_TURN)
    try:
        engine = build_engine(engine_settings(config), rules, describe_engine)
    except EngineError as error:
        text = "lower rollout_matching.vllm.colocate.gpu_memory_utilization where it asks for memory"
        raise RolloutError(f"rollout_matching.vllm.mode colocate: {error}; {text}") from error
    if repeats.enabled and engine.describe()["repeat_terminate"] != digest_limits(repeats):
        text = "the engine has not loaded the guard that ends answers which repeat themselves; please report it"
        raise RolloutError(f"rollout_matching.repeat_terminate.enabled: {text}, and write false meanwhile")
    if not engine.can_sleep:
        _LOG.info("the rollout engine stays awake between rollouts: vLLM puts it to sleep on a GPU alone")
    engine.sleep()
    return engine


def engine_settings(config: Config) -> EngineSettings:
    """What the engine is to run, as the configuration says it."""
    section, vllm = vllm_sections(config)
    own = VllmColocateConfig() if vllm.colocate is None else vllm.colocate
    assert config.template.max_pixels is not None
    return EngineSettings(
        model=resolve_input(config, "model.model", config.model.model),
        model_type=config.model.model_type,
        template=config.template.template,
        dtype=getattr(torch, server_dtype(config)),
        max_pixels=config.template.max_pixels,
        max_model_len=vllm.max_model_len,
        max_num_seqs=section.decode_batch_size,
        enable_prefix_caching=vllm.enable_prefix_caching,
        memory_share=own.gpu_memory_utilization,
        enforce_eager=own.enforce_eager,
        environment=render_activation(section.repeat_terminate),
    )
