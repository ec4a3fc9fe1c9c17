"""Cross checks of stage 2: variants and namespaces, lengths, the rollout backend, the pipeline. CONFIG-009, 011 to 013.

In: a view of the merged configuration; out: problems.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from coordexp.config.checks import STAGE1, Check, image_token_bound
from coordexp.config.rules import Rule, build_rule
from coordexp.config.validate import find_faults
from coordexp.spec import schema_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordexp.config.problems import Problem
    from coordexp.config.view import View

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535
_TWO_CHANNEL, _ALIGNED = "stage2_two_channel", "stage2_rollout_aligned"
_SOFT_KNOB = (
    "custom.coord_soft_ce_w1",
    "coord_reg soft_ce_weight, w1_weight, coord_gate_weight, temperature, target_sigma and target_truncate",
)
# Weights of custom.coord_soft_ce_w1 that two-channel training takes from stage2_ab.
_OWN_WEIGHTS = {
    "ce_weight": "coord_ce_weight",
    "gate_weight": "coord_gate_weight",
    "text_gate_weight": "text_gate_weight",
}
# Module keys of other contexts than the rollout's, which rollout-aligned training does not have, and what it reads.
_OTHER_CONTEXTS = {
    ("token_ce", "desc_ce_weight"): "write rollout_fn_desc_weight",
    ("token_ce", "self_context_struct_ce_weight"): "delete it",
    ("coord_reg", "self_context_soft_ce_weight"): "write soft_ce_weight",
}


def variant_sections(view: View) -> Iterator[Problem]:
    """Each trainer variant has its own sections, and no others that it would not read."""
    variant = view["custom.trainer_variant"]
    wanted = {STAGE1: (), _TWO_CHANNEL: ("stage2_ab", "rollout_matching"), _ALIGNED: ("rollout_matching",)}[variant]
    for section in ("stage2_ab", "rollout_matching"):
        present = view.written(section) and view[section] is not None
        if section in wanted and not present:
            yield view.problem(section, f"needed by custom.trainer_variant {variant}")
        elif present and section not in wanted:
            text = f"custom.trainer_variant {variant} does not read this section; set the variant, or delete it"
            yield view.problem(section, text)


def variant_keys(view: View) -> Iterator[Problem]:
    """A key of a shared section that this variant does not read keeps its default."""
    variant = view["custom.trainer_variant"]
    geo = tuple(f"custom.bbox_geo.{key}" for key in ("enabled", "smoothl1_weight", "ciou_weight"))
    for key in ("custom.desc_ce_weight", *geo):
        if variant != STAGE1 and view.readable(key) and view[key] != view.rule(key).default:
            advice = _variant_advice(key, variant)
            yield view.problem(key, f"custom.trainer_variant {variant} does not read it; {advice}")
    key = "rollout_matching.coord_decode_mode"
    if variant == _TWO_CHANNEL and view[key] not in (None, view.rule(key).default):
        yield view.problem(key, f"custom.trainer_variant {variant} does not read it; write stage2_ab.coord_decode_mode")


def record_batches(view: View) -> Iterator[Problem]:
    """A step of stage 2 counts records, and its packs are made of them."""
    variant = view["custom.trainer_variant"]
    if variant == STAGE1:
        return
    if view["training.effective_batch_size"] is None:
        text = f"needed by custom.trainer_variant {variant}: it counts the records of an optimizer step"
        yield view.problem("training.effective_batch_size", text)
    if view["training.gradient_accumulation_steps"] is not None:
        text = f"custom.trainer_variant {variant} does not read it: the packs of a step are made of its records"
        yield view.problem("training.gradient_accumulation_steps", f"{text}; delete it")


def own_weights(view: View) -> Iterator[Problem]:
    """Two-channel training has weights of its own for what coord_soft_ce_w1 also names; one that is not read is 0."""
    if view["custom.trainer_variant"] != _TWO_CHANNEL or view["stage2_ab.pipeline"] is not None:
        return
    for name, own in _OWN_WEIGHTS.items():
        key = f"custom.coord_soft_ce_w1.{name}"
        if view[key] not in (None, view.rule(key).default):
            yield view.problem(key, f"custom.trainer_variant {_TWO_CHANNEL} does not read it; write stage2_ab.{own}")


def rollout_modules(view: View) -> Iterator[Problem]:
    """Rollout-aligned training is channel B with the rollout context: nothing is set that only others would read."""
    if view["custom.trainer_variant"] != _ALIGNED or view["rollout_matching.pipeline"] is None:
        return
    for part in ("objective", "diagnostics"):
        key = f"rollout_matching.pipeline.{part}"
        for index, entry in view.sound_items(key):
            if "B" not in entry.get("channels", ("B",)):
                text = f"custom.trainer_variant {_ALIGNED} is channel B, so this module never runs"
                yield view.problem(key, f"{text}; add B, or write enabled: false", index, "channels")
            for name, value in entry.get("config", {}).items():
                advice = _OTHER_CONTEXTS.get((entry["name"], name))
                if advice is not None and value != _module_default(entry["name"], name):
                    text = f"custom.trainer_variant {_ALIGNED} does not read it; {advice}"
                    yield view.problem(key, text, index, "config", name)


def _module_default(module: str, key: str) -> Any:
    return (build_rule(f"coordexp:losses/{module}").properties or {})[key].default


def _variant_advice(key: str, variant: str) -> str:
    places = {
        (_TWO_CHANNEL, "custom.desc_ce_weight"): "write stage2_ab.desc_ce_weight",
        (_TWO_CHANNEL, "custom.bbox_geo.enabled"): "write stage2_ab.bbox_smoothl1_weight and bbox_ciou_weight",
        (_TWO_CHANNEL, "custom.bbox_geo.smoothl1_weight"): "write stage2_ab.bbox_smoothl1_weight",
        (_TWO_CHANNEL, "custom.bbox_geo.ciou_weight"): "write stage2_ab.bbox_ciou_weight",
    }
    return places.get((variant, key), "write rollout_matching.pipeline")


def foreign_pipeline(view: View) -> Iterator[Problem]:
    """The pipeline stands in the variant's own namespace."""
    variant = view["custom.trainer_variant"]
    if variant == _TWO_CHANNEL and view["rollout_matching.pipeline"] is not None:
        yield view.problem("rollout_matching.pipeline", f"{variant} reads stage2_ab.pipeline; move it there")
    if variant == _ALIGNED and view["stage2_ab.pipeline"] is not None:
        yield view.problem("stage2_ab.pipeline", f"{variant} reads rollout_matching.pipeline; move it there")


def single_objective_form(view: View) -> Iterator[Problem]:
    """An authored pipeline stands alone: no flat weight beside it, whatever its value."""
    authored = [name for name in ("stage2_ab", "rollout_matching") if view[f"{name}.pipeline"] is not None]
    for section in authored:
        knobs = (*flat_knobs(), _SOFT_KNOB) if section == "stage2_ab" else (_SOFT_KNOB,)
        for key, target in knobs:
            if view.written(key):
                text = f"{section}.pipeline takes its place; move it there, to {target}"
                yield view.problem(key, f"{text} (null here removes an inherited value)")


def flat_knobs() -> tuple[tuple[str, str], ...]:
    """Dotted keys of the flat objective weights of `stage2_ab`, each with the module key that takes its place."""
    return tuple(_moved(build_rule("coordexp:config/stage2_ab"), "stage2_ab"))


def _moved(rule: Rule, prefix: str) -> Iterator[tuple[str, str]]:
    for key, inner in (rule.properties or {}).items():
        if inner.moves_to is not None:
            yield f"{prefix}.{key}", inner.moves_to
        else:
            yield from _moved(inner, f"{prefix}.{key}")


def pipeline_modules(view: View) -> Iterator[Problem]:
    """No module stands twice, and each module's own keys are as its contract says."""
    for section in ("stage2_ab", "rollout_matching"):
        if view[f"{section}.pipeline"] is None:
            continue
        for part in ("objective", "diagnostics"):
            yield from _module_problems(view, f"{section}.pipeline.{part}")


def some_objective(view: View) -> Iterator[Problem]:
    """A pipeline has a loss to learn from."""
    for section in ("stage2_ab", "rollout_matching"):
        key = f"{section}.pipeline.objective"
        if view[f"{section}.pipeline"] is None:
            continue
        enabled = [entry for entry in view[key] if entry.get("enabled", True)]
        if not enabled:
            yield view.problem(key, "no module is enabled, so nothing is learnt")
            continue
        weighed = [entry for entry in enabled if entry.get("weight", 1.0)]
        if not weighed:
            yield view.problem(key, "every module has weight 0, so nothing is learnt")
        elif section == "stage2_ab":
            yield from _idle_channels(view, weighed)


def _idle_channels(view: View, weighed: list[dict[str, Any]]) -> Iterator[Problem]:
    """Each channel that has steps has a module that weighs something in them."""
    ratio = view["stage2_ab.schedule.b_ratio"]
    for channel, share in (("A", 1 - ratio), ("B", ratio)):
        if share and not any(channel in entry.get("channels", channel) for entry in weighed):
            text = f"stage2_ab.schedule.b_ratio {ratio} makes steps of channel {channel}"
            advice = f"in which no module weighs anything; add {channel} to channels"
            yield view.problem("stage2_ab.pipeline.objective", f"{text}, {advice}")


def _module_problems(view: View, key: str) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, entry in view.sound_items(key):
        name = entry["name"]
        if name in seen:
            yield view.problem(key, f"{name} stands at [{seen[name]}] already; keep one", index, "name")
        seen.setdefault(name, index)
        contract = f"coordexp:losses/{name}"
        if "config" not in entry or contract not in schema_ids():
            continue
        for fault in find_faults(build_rule(contract), entry["config"]):
            yield view.problem(key, fault.message, index, "config", *fault.path)


def lengths(view: View) -> Iterator[Problem]:
    """An answer is shorter than a row and than what the engine takes, and a row that was trained could be generated."""
    longest, row = view["rollout_matching.max_new_tokens"], view["global_max_length"]
    if longest is None:
        return
    key = "rollout_matching.max_new_tokens"
    if longest >= row:
        yield view.problem(key, f"{longest} leaves no room for a prompt in global_max_length {row}; lower it")
    model = _model_length(view)
    if model is None:
        return
    if longest >= model:
        yield view.problem(key, f"{longest} must be below rollout_matching.vllm.max_model_len {model}")
    if model < row:
        text = f"{model} is below global_max_length {row}, so training rows could not have been generated; raise it"
        yield view.problem("rollout_matching.vllm.max_model_len", text)


def prompt_room(view: View) -> Iterator[Problem]:
    """What the longest answer leaves of the engine's length holds a prompt with the largest image."""
    longest, model = view["rollout_matching.max_new_tokens"], _model_length(view)
    image = image_token_bound(view["template.max_pixels"])
    if longest is not None and model is not None and longest < model <= longest + image:
        text = f"{longest} leaves {model - longest} of max_model_len {model} for the prompt, whose image alone may take"
        problem = f"{text} {image} tokens (template.max_pixels); lower one of them"
        yield view.problem("rollout_matching.max_new_tokens", problem)


def _model_length(view: View) -> int | None:
    """The engine's length, where vLLM generates."""
    if view["rollout_matching.rollout_backend"] != "vllm" or view["rollout_matching.vllm"] is None:
        return None
    length: int = view["rollout_matching.vllm.max_model_len"]
    return length


def backend(view: View) -> Iterator[Problem]:
    """A vllm backend is described by the one section of its mode. Beside hf the section may stay, for switching."""
    if view["rollout_matching"] is None:
        return
    chosen, vllm = view["rollout_matching.rollout_backend"], view["rollout_matching.vllm"]
    if chosen == "vllm" and vllm is None:
        yield view.problem("rollout_matching.vllm", "needed, because rollout_backend is vllm")
    if vllm is None:
        return
    mode = view["rollout_matching.vllm.mode"]
    other = "colocate" if mode == "server" else "server"
    if view[f"rollout_matching.vllm.{other}"] is not None:
        text = "a server gets these from its launcher, so the learner would not read them"
        reason = text if mode == "server" else "an engine in the learner's process has no servers"
        yield view.problem(f"rollout_matching.vllm.{other}", f"mode is {mode}: {reason}; delete it")
    if mode == "server" and view["rollout_matching.vllm.server"] is None:
        yield view.problem("rollout_matching.vllm.server", "needed, because vllm.mode is server")


def distinct_servers(view: View) -> Iterator[Problem]:
    """Two entries never name the same server, and no two ports of one host are the same."""
    key = "rollout_matching.vllm.server.servers"
    urls: dict[str, int] = {}
    ports: dict[tuple[str | None, int], str] = {}
    for index, entry in view.sound_items(key):
        url, group = urlsplit(entry["base_url"]), entry["group_port"]
        if url.geturl() in urls:
            text = f"{url.geturl()} is servers[{urls[url.geturl()]}] already; each server is listed once"
            yield view.problem(key, text, index, "base_url")
            continue
        urls[url.geturl()] = index
        written = url.netloc.partition(":")[2]
        own = int(written) if written else _DEFAULT_PORTS[url.scheme]
        if not 0 < own <= _LAST_PORT:
            yield view.problem(key, f"{own} is no port; ports are 1..{_LAST_PORT}", index, "base_url")
        for name, port in (("base_url", own), ("group_port", group)):
            place = (url.hostname, port)
            if place in ports:
                text = f"port {port} of {url.hostname} is that of {ports[place]} already; each needs one of its own"
                yield view.problem(key, text, index, name)
            ports.setdefault(place, f"servers[{index}].{name}")


def repeat_terminate(view: View) -> Iterator[Problem]:
    """Repeat termination, when on, watches something, and an n-gram has a length and a count."""
    section = "rollout_matching.repeat_terminate"
    if view["rollout_matching"] is None:
        return
    size, repeats = view[f"{section}.ngram_size"], view[f"{section}.ngram_repeats"]
    if (size is None) != (repeats is None):
        yield view.problem(f"{section}.ngram_size", "ngram_size and ngram_repeats are given together")
    limits = [view[f"{section}.{key}"] for key in ("max_consecutive_token_repeats", "ngram_size", "max_object_keys")]
    if view[f"{section}.enabled"] and all(limit is None for limit in limits):
        keys = "max_consecutive_token_repeats, ngram_size with ngram_repeats, or max_object_keys"
        yield view.problem(f"{section}.enabled", f"is true, but nothing is watched; set {keys}")


STAGE2_CHECKS: tuple[Check, ...] = (
    variant_sections,
    variant_keys,
    record_batches,
    own_weights,
    rollout_modules,
    foreign_pipeline,
    single_objective_form,
    pipeline_modules,
    some_objective,
    lengths,
    prompt_room,
    backend,
    distinct_servers,
    repeat_terminate,
)
