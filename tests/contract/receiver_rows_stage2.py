"""Where each key of stage 2 is found: rows of `test_receivers.py`; and the keys that no trainer reads yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from coordexp.config.rollout_sections import VllmServerEntry
from coordexp.rollout.activation import read_activation
from coordexp.rollout.grammar import build_expression
from coordexp.rollout.serve import server_environment
from coordexp.rollout.server_plugin.repeats import digest_limits
from coordexp.training.server_connect import expected_server
from coordexp.training.types import StepRecords
from tests.contract.receiver_rows import Ask, Row, of_module
from tests.plugins.served import port_of_a_push, room_for_answers

if TYPE_CHECKING:
    from tests.plugins.receivers import Built


def of_decoding(key: str) -> tuple[Row, Row]:
    """A key of how answers are drawn: training and evaluation ask for it."""
    name = key.rpartition(".")[2]
    return (
        Row(f"rollout_matching.{key}", "answers", lambda b: getattr(b.asked[0], name)),
        Row(f"rollout_matching.{key}", "answers", lambda b: getattr(b.asked[1], name)),
    )


def of_matching(key: str) -> Row:
    return Row(f"rollout_matching.{key}", "answers", lambda b: getattr(b.phase.settings.matching, key))


def of_guard(key: str) -> Row:
    return Row(
        f"rollout_matching.repeat_terminate.{key}", "answers", lambda b: getattr(b.phase.backend.guard.limits, key)
    )


def limit_of_a_server(key: str) -> Ask:
    """What a server's environment tells its engine; its digest is what the learner asks for."""

    def ask(built: Built) -> Any:
        limits = read_activation(server_environment({}, "key", built.config.rollout_matching.repeat_terminate))
        assert limits is not None
        assert asked_of_a_server("repeat_terminate")(built) == digest_limits(limits)
        return getattr(limits, key)

    return ask


def of_dump(key: str, name: str | None = None) -> tuple[Row, Row]:
    """A bound of the dumps of training steps, and of evaluations."""
    name = key if name is None else name
    return (
        Row(f"rollout_matching.monitor_dump.{key}", "answers", lambda b: getattr(b.phase.dump.__self__.bounds, name)),
        Row(
            f"rollout_matching.monitor_dump.{key}",
            "answers",
            lambda b: getattr(b.parts.rollouts.dump.__self__.bounds, name),
        ),
    )


def of_request_dump(key: str, name: str | None = None) -> Row:
    name = key if name is None else name
    return Row(
        f"rollout_matching.vllm.server.debug_dump.{key}",
        "served",
        lambda b: getattr(b.phase.backend.client.watch.bounds, name),
    )


def of_distribution(build: str, keys: Mapping[str, str]) -> tuple[Row, ...]:
    """Keys of `custom.coord_soft_ce_w1`, each with the key of `coord_reg` that it becomes."""
    return tuple(
        Row(f"custom.coord_soft_ce_w1.{key}", build, of_module("coord_reg", name)) for key, name in keys.items()
    )


def of_channels(key: str, module: str, name: str | None = None) -> Row:
    return Row(f"stage2_ab.{key}", "channels", of_module(module, key if name is None else name))


def of_connections(key: str) -> Row:
    """A limit of every call of every server."""

    def ask(built: Built) -> Any:
        (value,) = {getattr(server.connection, key) for server in built.phase.backend.client.servers}
        return value

    return Row(f"rollout_matching.vllm.server.{key}", "served", ask)


ENGINE = "rollout_matching.vllm.colocate"


def engine_of(built: Built) -> Any:
    """The stand-in that the run was given in the place of its engine."""
    return built.phase.backend.answers.engine


def asked_of_a_server(key: str) -> Ask:
    """What a server must say of itself, or is refused."""
    return lambda built: expected_server(built.config, None).facts[key][0]


def servers_of_a_run(built: Built) -> list[VllmServerEntry]:
    """Where requests go, and at which port the first server's workers are met; the second's stands in its link."""
    backend = built.phase.backend
    urls = [server.connection.base_url for server in backend.client.servers]
    _, second = built.config.rollout_matching.vllm.server.servers
    return [VllmServerEntry(base_url=urls[0], group_port=port_of_a_push(backend)), replace(second, base_url=urls[1])]


def modules(built: Built) -> list[tuple[str, bool, float, tuple[str, ...]]]:
    """The modules that the run computes, in order."""
    manifest = built.parts.run.objective.manifest
    return [(e.name, e.enabled, e.weight, e.channels) for e in (*manifest.objective, *manifest.diagnostics)]


def channels_of_steps(built: Built) -> str:
    """The channels of the run's first five steps."""
    return "".join(built.channels.schedule.channel(step) for step in range(5))


def forwards_of_a_step(built: Built) -> list[int]:
    """How often the model runs for a record of Channel A, and for one of the validation."""
    calls: list[None] = []
    handle = built.trainer.model.register_forward_pre_hook(lambda *_: calls.append(None))
    plan = built.channels.a(StepRecords(0, 0, (built.parts.dataset[0],)))
    counts = []
    try:
        for planned in (*plan.forwards, next(iter(built.parts.validation))["forward"]):
            calls.clear()
            built.parts.run(built.trainer.model, planned, plan.normalizers)
            counts.append(len(calls))
    finally:
        handle.remove()
    return counts


MODULES = [
    ("coord_reg", True, 1.0, ("B",)),
    ("token_ce", True, 0.4, ("A", "B")),
    ("coord_diag", False, 1.0, ("A", "B")),
]
EVERYWHERE = {key: key for key in ("soft_ce_weight", "w1_weight", "temperature", "target_sigma", "target_truncate")}
GATES = {"ce_weight": "coord_ce_weight", "gate_weight": "coord_gate_weight", "text_gate_weight": "text_gate_weight"}
ROWS = (
    Row("global_max_length", "answers", lambda b: b.phase.settings.rows.row_length),
    Row("training.seed", "answers", lambda b: b.phase.settings.training_seed),
    Row("training.effective_batch_size", "answers", lambda b: b.parts.plans.per_step),
    Row("training.per_device_train_batch_size", "answers", lambda b: b.phase.settings.rows.per_forward),
    Row("training.per_device_eval_batch_size", "answers", lambda b: b.parts.validation.split.per_forward),
    Row("training.packing", "channels", lambda b: b.phase.settings.rows.row_length is not None),
    *of_distribution("answers", EVERYWHERE | GATES),
    *of_distribution("channels", EVERYWHERE),
    Row("rollout_matching.decode_batch_size", "answers", lambda b: b.phase.backend.settings.decode_batch_size),
    Row("rollout_matching.decode_batch_size", "answers", lambda b: b.parts.rollouts.backend.settings.decode_batch_size),
    *of_decoding("max_new_tokens"),
    *of_decoding("decoding.temperature"),
    *of_decoding("decoding.top_p"),
    *of_decoding("decoding.top_k"),
    Row("rollout_matching.decoding.grammar", "answers", lambda b: b.asked[0].grammar == build_expression(b.config)),
    Row("rollout_matching.decoding.grammar", "answers", lambda b: b.asked[1].grammar == build_expression(b.config)),
    *of_decoding("repetition_penalty"),
    of_guard("min_new_tokens"),
    of_guard("max_consecutive_token_repeats"),
    of_guard("ngram_size"),
    of_guard("ngram_repeats"),
    of_guard("max_object_keys"),
    Row("rollout_matching.repeat_terminate.enabled", "answers", lambda b: b.phase.backend.settings.repeat_terminate),
    Row("rollout_matching.repeat_terminate.enabled", "served", lambda b: b.phase.backend.settings.repeat_terminate),
    Row("rollout_matching.repeat_terminate.max_object_keys", "served", limit_of_a_server("max_object_keys")),
    of_matching("candidate_top_k"),
    of_matching("maskiou_gate"),
    of_matching("maskiou_resolution"),
    of_matching("fp_cost"),
    of_matching("fn_cost"),
    Row("rollout_matching.eval_detection.enabled", "answers", lambda b: b.parts.rollouts.settings.coco),
    Row("rollout_matching.eval_detection.score_mode", "answers", lambda b: b.parts.rollouts.settings.score_mode),
    Row("rollout_matching.eval_detection.score_mode", "answers", lambda b: b.phase.backend.settings.logprobs, True),
    Row(
        "rollout_matching.eval_detection.constant_score",
        "answers_authored",
        lambda b: b.parts.rollouts.settings.constant_score,
    ),
    Row("rollout_matching.monitor_dump.enabled", "answers", lambda b: b.phase.dump is not None),
    Row("rollout_matching.monitor_dump.enabled", "channels", lambda b: b.phase.dump is None, True),
    *of_dump("every_steps"),
    *of_dump("max_events"),
    *of_dump("max_samples"),
    *of_dump("max_text_chars", "max_chars"),
    *of_dump("min_free_gib"),
    Row("rollout_matching.coord_decode_mode", "answers_authored", lambda b: b.parts.run.objective.decode_mode),
    Row("rollout_matching.pipeline.objective", "answers_authored", modules, MODULES),
    Row("rollout_matching.pipeline.objective", "answers_authored", of_module("coord_reg", "w1_weight"), 0.6),
    Row("rollout_matching.pipeline.diagnostics", "answers_authored", modules, MODULES),
    Row("stage2_ab.coord_decode_mode", "channels", lambda b: b.parts.run.objective.decode_mode),
    Row("stage2_ab.schedule.b_ratio", "channels", lambda b: float(b.channels.schedule.b_ratio)),
    Row("stage2_ab.schedule.b_ratio", "channels", channels_of_steps, "AABAB"),
    Row("stage2_ab.n_softctx_iter", "channels", lambda b: b.parts.run.self_context.iterations),
    Row("stage2_ab.n_softctx_iter", "channels", forwards_of_a_step, [3, 1]),
    Row("stage2_ab.softctx_grad_mode", "channels", lambda b: b.parts.run.self_context.grad_mode),
    Row("stage2_ab.coord_ctx_embed_mode", "channels", lambda b: b.parts.run.objective.manifest.coord_ctx_embed_mode),
    of_channels("fmt_struct_ce_weight", "token_ce", "self_context_struct_ce_weight"),
    of_channels("desc_ce_weight", "token_ce"),
    of_channels("desc_ce_weight", "token_ce", "rollout_fn_desc_weight"),
    of_channels("bbox_smoothl1_weight", "bbox_geo", "smoothl1_weight"),
    of_channels("bbox_ciou_weight", "bbox_geo", "ciou_weight"),
    of_channels("coord_ce_weight", "coord_reg"),
    of_channels("coord_el1_weight", "coord_reg"),
    of_channels("coord_ehuber_weight", "coord_reg"),
    of_channels("coord_entropy_weight", "coord_reg"),
    of_channels("coord_gate_weight", "coord_reg"),
    of_channels("text_gate_weight", "coord_reg"),
    of_channels("channel_b.drop_invalid_struct_ce_multiplier", "token_ce", "rollout_drop_invalid_struct_ce_multiplier"),
    Row("stage2_ab.pipeline.objective", "channels_authored", modules, MODULES),
    Row("stage2_ab.pipeline.objective", "channels_authored", of_module("token_ce", "rollout_fn_desc_weight"), 3.0),
    Row("stage2_ab.pipeline.diagnostics", "channels_authored", modules, MODULES),
    Row("rollout_matching.rollout_backend", "served", lambda b: b.phase.backend.settings.name),
    Row("rollout_matching.rollout_backend", "served", lambda b: b.parts.rollouts.backend.settings.name),
    Row("rollout_matching.rollout_backend", "answers_authored", lambda b: b.phase.backend.settings.name, "hf"),
    # Three requests a device at once, and three devices behind the two servers.
    Row("rollout_matching.decode_batch_size", "served", lambda b: b.phase.backend.settings.decode_batch_size, 9),
    Row("rollout_matching.vllm.max_model_len", "served", room_for_answers),
    Row("rollout_matching.vllm.max_model_len", "served", asked_of_a_server("max_model_len")),
    Row("rollout_matching.vllm.enable_prefix_caching", "served", asked_of_a_server("enable_prefix_caching")),
    Row("rollout_matching.vllm.server.servers", "served", servers_of_a_run),
    of_connections("timeout_s"),
    of_connections("infer_timeout_s"),
    Row(
        "rollout_matching.vllm.server.debug_dump.enabled",
        "served",
        lambda b: b.phase.backend.client.watch is not None,
    ),
    of_request_dump("every_steps"),
    of_request_dump("dump_first_step", "first_step"),
    of_request_dump("max_events"),
    of_request_dump("max_samples"),
    of_request_dump("max_chars"),
    of_request_dump("min_free_gib"),
    Row("rollout_matching.vllm.mode", "engine", lambda b: engine_of(b).name, "engine of this process"),
    Row("rollout_matching.vllm.max_model_len", "engine", room_for_answers),
    Row("rollout_matching.vllm.max_model_len", "engine", lambda b: engine_of(b).settings.max_model_len),
    Row("rollout_matching.vllm.enable_prefix_caching", "engine", lambda b: engine_of(b).settings.enable_prefix_caching),
    Row("rollout_matching.decode_batch_size", "engine", lambda b: engine_of(b).settings.max_num_seqs),
    Row("rollout_matching.decode_batch_size", "engine", lambda b: b.phase.backend.settings.decode_batch_size),
    Row(f"{ENGINE}.gpu_memory_utilization", "engine", lambda b: engine_of(b).settings.memory_share),
    Row(f"{ENGINE}.enforce_eager", "engine", lambda b: engine_of(b).settings.enforce_eager),
    Row("model.torch_dtype", "engine", lambda b: str(engine_of(b).settings.dtype).removeprefix("torch.")),
    Row("template.max_pixels", "engine", lambda b: engine_of(b).settings.max_pixels),
)
SHARED = "rollout_matching.vllm.colocate.tensor_parallel_size"
# What no trainer does yet, each with the key at which a run that would read it is refused. A receiver brings a row.
WAITING = {SHARED: SHARED}
SERVER: dict[str, Any] = {
    "mode": "server",
    "max_model_len": 900,
    "server": {"servers": [{"base_url": "http://a:8000", "group_port": 1}]},
}
READERS: dict[str | None, dict[str, dict[str, Any]]] = {
    None: {
        "rollout_matching": {"vllm": SERVER},
    },
    SHARED: {
        "rollout_matching": {
            "rollout_backend": "vllm",
            "vllm": {"mode": "colocate", "max_model_len": 900, "colocate": {"tensor_parallel_size": 2}},
        }
    },
}
"""What has the keys that wait read, by the key that is refused for it; under None they are written, and nothing reads
them.
"""
