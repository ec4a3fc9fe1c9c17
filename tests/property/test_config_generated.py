"""Configurations drawn from the schemas: they load, their dumps re-load equal, and a key too many is named exactly."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coordexp.config import ConfigError, load_config, render_resolved
from coordexp.config.checks import PATHS
from coordexp.config.problems import KeyPath, render_path
from coordexp.config.rules import Rule, build_rule
from coordexp.config.validate import find_faults
from coordexp.spec import violations
from tests.unit.config.minimal import DOCUMENTS

pytestmark = pytest.mark.timeout(900)
# YAML escapes what it can't print, and lone surrogates are no text.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
OPEN = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=6),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**40), 2**40)
        | st.floats(allow_nan=False, allow_infinity=False)
        | TEXT,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1, max_size=3), inner, max_size=3)
        ),
        max_leaves=5,
    ),
    max_size=3,
)


def limits(rule: Rule) -> dict[str, Any]:
    """Bounds as hypothesis wants them for floats."""
    names = {
        "minimum": "min_value",
        "maximum": "max_value",
        "exclusiveMinimum": "min_value",
        "exclusiveMaximum": "max_value",
    }
    result: dict[str, Any] = {names[key]: limit for key, limit in rule.bounds}
    result |= {f"exclude_{key[9:12].lower()}": True for key, _ in rule.bounds if key.startswith("exclusive")}
    return {"min_value": -1e6, "max_value": 1e6, **result}


def values(rule: Rule) -> st.SearchStrategy[Any]:
    """Values that a rule accepts."""
    branches = [st.none()] if rule.nullable else []
    if rule.enum is not None:
        branches.append(st.sampled_from(rule.enum))
    elif "object" in rule.names:
        branches.append(OPEN if rule.properties is None else mappings(rule))
    elif "array" in rule.names:
        assert rule.items is not None
        least, most = rule.size
        branches.append(
            st.lists(values(rule.items), min_size=least, max_size=most or 3, unique_by=repr if rule.unique else None)
        )
    elif "string" in rule.names:
        branches.append(
            st.from_regex(rule.pattern, fullmatch=True)
            if rule.pattern
            else TEXT.filter(lambda t: len(t) >= rule.min_length)
        )
    elif "integer" in rule.names:
        bounds = dict(rule.bounds)
        branches.append(st.integers(int(bounds.get("minimum", -(10**6))), int(bounds.get("maximum", 10**6))))
    elif "number" in rule.names:
        branches.append(st.floats(**limits(rule)))
    else:
        branches.append(st.booleans())
    return st.one_of(branches)


def mappings(rule: Rule) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that a rule accepts, with any of the optional keys."""
    keys = {key: values(inner) for key, inner in (rule.properties or {}).items()}
    required = {key: keys.pop(key) for key in rule.required}
    return st.fixed_dictionaries(required, optional=keys)


# Three variants share the examples of a profile.
SHARED = settings(max_examples=max(5, settings().max_examples // 3))
RULE = build_rule()
ACCEPTED = mappings(RULE)


def tamed(document: dict[str, Any], variant: str) -> dict[str, Any]:
    """A document that its schema accepts, freed of what cross checks refuse; the other drawn values stay."""
    result = copy.deepcopy(document)
    start = DOCUMENTS[variant]
    for section in ("stage2_ab", "rollout_matching", "data", "template", "deepspeed"):
        result.pop(section, None)
    result.update(
        {key: copy.deepcopy(value) for key, value in start.items() if key not in ("custom", "training", "model")}
    )
    custom, training = result["custom"], result["training"]
    for key in (
        "desc_ce_weight",
        "bbox_geo",
        "coord_soft_ce_w1",
        "offline_max_pixels",
        "coord_offset",
        "trainer_variant",
    ):
        custom.pop(key, None)
    custom["trainer_variant"] = start["custom"].get("trainer_variant", "stage1")
    if "extra" in custom:
        custom["extra"] = {key: value for key, value in custom["extra"].items() if key not in ("rollout_matching",)}
    for key in (
        "effective_batch_size", "gradient_accumulation_steps", "eval_strategy", "save_strategy",
        "metric_for_best_model", "max_steps",
        "fp16", "lr_scheduler_type", "lr_scheduler_kwargs",
    ):  # fmt: skip
        training.pop(key, None)
    for key in PATHS:
        section, _, name = key.partition(".")
        if result.get(section, {}).get(name) is not None:
            result[section][name] = f"some/{name}"
    training["run_name"] = "run"
    if variant != "stage1":
        training["effective_batch_size"] = 8
    _tame_tuner(result.get("tuner", {}))
    return result


def _tame_tuner(tuner: dict[str, Any]) -> None:
    """Leave out drawn names of layers, and numbers of an adapter where there is none."""
    for key in ("target_modules", "target_regex", "modules_to_save", "lora_bias", "freeze_llm"):
        tuner.pop(key, None)
    if tuner.get("tuner_type") != "lora":
        for key in ("lora_rank", "lora_alpha", "lora_dropout", "use_dora"):
            tuner.pop(key, None)


def written(document: dict[str, Any]) -> str:
    """YAML text of a document."""
    return str(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True))


def in_file(text: str, name: str = "run.yaml") -> Path:
    """A file of its own folder with this text."""
    path = Path(tempfile.mkdtemp(prefix="coordexp-")) / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.invariant("CONFIG-004")
@given(ACCEPTED)
def test_what_the_schemas_generate_has_no_fault(document):
    assert find_faults(RULE, document) == []
    assert violations("config", document) == []


def spots(document: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Paths of all values of a document."""
    found = [path] if path else []
    if isinstance(document, dict):
        return found + [spot for key, value in document.items() for spot in spots(value, (*path, key))]
    if isinstance(document, list):
        return found + [spot for index, value in enumerate(document) for spot in spots(value, (*path, index))]
    return found


def place(document: Any, path: KeyPath) -> Any:
    """The value at a path."""
    for part in path:
        document = document[part]
    return document


WRONG = st.sampled_from([None, True, -1, 0, 3, 10**12, -0.5, 0.5, 2.5, "", "x", "no", [], ["x"], {}, {"x": 1}])


@pytest.mark.invariant("CONFIG-004")
@given(ACCEPTED, st.data())
def test_rules_and_the_schema_library_judge_a_changed_value_alike(document, data):
    path = data.draw(st.sampled_from(spots(document)))
    changed = copy.deepcopy(document)
    place(changed, path[:-1])[path[-1]] = data.draw(WRONG)
    assert bool(find_faults(RULE, changed)) == bool(violations("config", changed))


@pytest.mark.invariant("CONFIG-004")
@given(ACCEPTED, st.data())
def test_rules_and_the_schema_library_judge_a_removed_key_alike(document, data):
    path = data.draw(st.sampled_from([spot for spot in spots(document) if isinstance(spot[-1], str)]))
    changed = copy.deepcopy(document)
    del place(changed, path[:-1])[path[-1]]
    assert bool(find_faults(RULE, changed)) == bool(violations("config", changed))


@pytest.mark.invariant("CONFIG-006")
@pytest.mark.parametrize("variant", DOCUMENTS)
@SHARED
@given(document=ACCEPTED)
def test_a_generated_config_loads_and_its_dump_loads_equal(variant, document):
    config = load_config(in_file(written(tamed(document, variant))))
    again = load_config(in_file(render_resolved(config), "resolved.json"))
    assert again == config
    assert render_resolved(again) == render_resolved(config)


def closed_places(rule: Rule, document: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Paths of the mappings of a document that take no further key."""
    if isinstance(document, dict) and rule.properties is not None:
        inner = [
            spot for key, value in document.items() for spot in closed_places(rule.properties[key], value, (*path, key))
        ]
        return [path, *inner]
    if isinstance(document, list) and rule.items is not None:
        return [spot for i, value in enumerate(document) for spot in closed_places(rule.items, value, (*path, i))]
    return []


@pytest.mark.invariant("CONFIG-003")
@pytest.mark.parametrize("variant", DOCUMENTS)
@SHARED
@given(document=ACCEPTED, data=st.data())
def test_an_unknown_key_at_any_depth_is_refused_with_exactly_its_path(variant, document, data):
    document = tamed(document, variant)
    path = data.draw(st.sampled_from(closed_places(RULE, document)))
    key = data.draw(st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
    section = place(document, path)
    assume(key not in section and key != "extends")
    rule = RULE
    for part in path:
        rule = rule.items if isinstance(part, int) else (rule.properties or {})[part]
    assume(key not in (rule.properties or {}) and key not in rule.removed)
    section[key] = 1
    with pytest.raises(ConfigError) as caught:
        load_config(in_file(written(document)))
    assert [render_path(problem.path) for problem in caught.value.problems] == [render_path((*path, key))]
    assert "unknown key" in caught.value.problems[0].message
