"""Cross checks of `tuner`: every key is read, every name is a module, embedding and head stay whole. CONFIG-024.

In: a view of the merged configuration; out: problems. What ms-swift and peft do with each key was seen on the pinned
versions: a name beside all-linear, a name of no module and a freeze_* beside names are left out without a word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from coordexp.config.layers import (
    ADAPTABLE,
    all_linear,
    ends_within,
    is_within,
    module_kinds,
    saved_by,
    targets_of,
    targets_of_pattern,
)
from coordexp.config.problems import show

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from coordexp.config.checks import Check
    from coordexp.config.problems import Problem
    from coordexp.config.view import View

_ALL_LINEAR = "all-linear"
_ADAPTER_KEYS = (
    "target_modules", "target_regex", "modules_to_save", "lora_rank", "lora_alpha", "lora_dropout", "lora_bias",
    "use_dora",
)  # fmt: skip
_PARTS = ("llm", "vit", "aligner")
_EXAMPLES = "q_proj, visual.merger.linear_fc1 or model.language_model.layers.0.mlp.up_proj"
_WHOLE_ENDS = (
    "the objective scores with the head's own weight, which a tied embedding shares; leave them out, "
    "custom.coord_offset trains the rows of the coord tokens"
)


def unread_adapter_keys(view: View) -> Iterator[Problem]:
    """Training everything has no adapter to set up."""
    if _tuner_type(view) != "full":
        return
    for key in (f"tuner.{name}" for name in _ADAPTER_KEYS):
        if view.readable(key) and view[key] != view.rule(key).default:
            text = "tuner_type full has no adapter; write tuner_type: lora, or drop this"
            yield view.problem(key, f"{text} (null here removes an inherited value)")


def frozen_parts(view: View) -> Iterator[Problem]:
    """Something is trained, and a part that is to stay as it is does."""
    kind = _tuner_type(view)
    frozen = [part for part in _PARTS if view[f"tuner.freeze_{part}"]]
    if kind == "full" and len(frozen) == len(_PARTS) and not view["custom.coord_offset.enabled"]:
        yield view.problem("tuner.freeze_llm", "everything is frozen, so nothing is trained; free a part")
    if kind != "lora":
        return
    if view["tuner.target_regex"] is not None or _ALL_LINEAR not in view["tuner.target_modules"]:
        for part in frozen:
            text = "is not read beside layers that are named: they alone get an adapter, whatever part they are of"
            yield view.problem(f"tuner.freeze_{part}", f"{text}; drop it")
    elif len(frozen) == len(_PARTS):
        text = "everything is frozen, so all-linear finds no layer; free a part"
        offsets = ", or write tuner_type: full to train the coord offsets alone"
        yield view.problem("tuner.freeze_llm", text + (offsets if view["custom.coord_offset.enabled"] else ""))
    if view["tuner.lora_bias"] == "all" and frozen:
        text = f"all trains every bias, those of the frozen {', '.join(frozen)} too; write none, or freeze nothing"
        yield view.problem("tuner.lora_bias", text)


def adapter_targets(view: View) -> Iterator[Problem]:
    """Each name stands for layers that can have an adapter and are not trained whole, neither embedding nor head."""
    if _tuner_type(view) != "lora":
        return
    names, pattern = view["tuner.target_modules"], view["tuner.target_regex"]
    saved = {module for name in view["tuner.modules_to_save"] for module in saved_by(name, module_kinds())}
    if pattern is not None:
        if names != view.rule("tuner.target_modules").default:
            yield view.problem("tuner.target_modules", "tuner.target_regex takes its place; keep one of them")
        if text := _pattern_fault(pattern, saved):
            yield view.problem("tuner.target_regex", f"{show(pattern)} {text}")
        return
    for index, name in enumerate(names):
        if name == "all-embedding":
            text = f"takes in embed_tokens: {_WHOLE_ENDS}"
        elif name == _ALL_LINEAR:
            text = _all_linear_fault(view, saved)
        elif _ALL_LINEAR in names:
            text = "adds nothing beside all-linear, every linear layer of the parts that are not frozen; keep one"
        else:
            text = _target_fault(targets_of(name, module_kinds()), saved)
        if text:
            yield view.problem("tuner.target_modules", f"{show(name)} {text}", index)


def saved_modules(view: View) -> Iterator[Problem]:
    """Each module that is trained whole is there, and neither holds nor is embedding or head."""
    if _tuner_type(view) != "lora":
        return
    for index, name in enumerate(view["tuner.modules_to_save"]):
        found = saved_by(name, module_kinds())
        text = ""
        if not found:
            text = f"names no module of a Qwen3-VL; modules are named like {_EXAMPLES}"
        elif ends := ends_within(found):
            text = f"takes in {' and '.join(ends)}: {_WHOLE_ENDS}"
        if text:
            yield view.problem("tuner.modules_to_save", f"{show(name)} {text}", index)


def _tuner_type(view: View) -> str | None:
    """The tuner's type; None where it stands under its former name, which is told by itself."""
    kind: str = view["tuner.tuner_type"]
    return None if view.written("tuner.train_type") else kind


def _all_linear_fault(view: View, saved: Collection[str]) -> str:
    frozen = [part for part in _PARTS if view[f"tuner.freeze_{part}"]]
    # Everything frozen has a problem of its own, and most configurations save no module whole.
    return _target_fault(all_linear(frozen, module_kinds()), saved) if saved and len(frozen) < len(_PARTS) else ""


def _pattern_fault(pattern: str, saved: Collection[str]) -> str:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        return f"is no regular expression: {error}"
    return _target_fault(targets_of_pattern(compiled, module_kinds()), saved)


def _target_fault(found: list[str], saved: Collection[str]) -> str:
    """Why these modules can't get an adapter beside those that are saved whole; empty when they can."""
    kinds = module_kinds()
    adaptable = [module for module in found if kinds[module] in ADAPTABLE]
    other = next((module for module in found if kinds[module] not in ADAPTABLE), None)
    text = ""
    if not found:
        text = f"names no layer of a Qwen3-VL; layers are named like {_EXAMPLES}"
    elif ends := ends_within(adaptable):
        text = f"takes in {' and '.join(ends)}: {_WHOLE_ENDS}"
    elif other is not None:
        text = f"takes in {other}, and only linear layers, embeddings and convolutions can have an adapter"
    elif all(is_within(module, saved) for module in found):
        text = "gets no adapter, because tuner.modules_to_save trains all of it whole; name other layers, or drop one"
    return text


TUNER_CHECKS: tuple[Check, ...] = (unread_adapter_keys, frozen_parts, adapter_targets, saved_modules)
