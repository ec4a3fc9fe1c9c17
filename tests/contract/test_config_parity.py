"""The config schemas, the frozen types, the shipped files and the reference page say the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from coordexp.config import Config, ConfigError, discover_profiles, load_config, render_resolved
from coordexp.config.document import render_reference, shipped_runs
from coordexp.config.hierarchy import PROFILE_FOLDERS
from coordexp.config.rollout_sections import DiagnosticModuleConfig, ObjectiveModuleConfig
from coordexp.config.rules import REQUIRED, Rule, build_rule
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.manifest import checksum, resolved_document
from coordexp.spec import contracts_root

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SECTIONS = {
    "model", "quantization", "template", "data", "tuner", "training", "rlhf", "custom", "debug", "stage2_ab",
    "rollout_matching", "deepspeed", "global_max_length",
}  # fmt: skip
SHIPPED = sorted(CONFIGS.rglob("*.yaml"))
BASES = [path for path in SHIPPED if path.stem.endswith("base")]


def name(path: Path) -> str:
    """Test id of a file."""
    return str(path.relative_to(ROOT))


def classes(cls: type, rule: Rule, path: str) -> list[tuple[str, type, Rule]]:
    """Every dataclass below `cls`, with its rule and dotted path."""
    found = [(path, cls, rule)]
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.name == "sources":
            continue
        inner, child = part_class(hints[field.name]), (rule.properties or {})[field.name]
        if inner is not None:
            item = child.items if child.items is not None else child
            found += classes(inner, item, f"{path}.{field.name}")
    return found


def part_class(hint: Any) -> type | None:
    """The dataclass inside a type, whether optional or in a tuple."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint
    for inner in get_args(hint):
        if (found := part_class(inner)) is not None:
            return found
    return None


def described(hint: Any) -> set[str]:
    """JSON types of a Python type."""
    if get_origin(hint) in (Union, type(int | None)):
        return {kind for part in get_args(hint) for kind in described(part)}
    if get_origin(hint) is Literal:
        return {described_value(value) for value in get_args(hint)}
    simple = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if hint in simple:
        return {simple[hint]}
    return {"array"} if get_origin(hint) is tuple else {"object"}


def described_value(value: object) -> str:
    """JSON type of a literal."""
    return "boolean" if isinstance(value, bool) else "string"


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default, REQUIRED when it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def plain(value: Any) -> Any:
    """A default as the schemas write it."""
    if dataclasses.is_dataclass(value):
        return {}
    return list(value) if isinstance(value, tuple) else value


CLASSES = classes(Config, build_rule(), "Config")
# Names of the loss modules: the schemas declare them, and LOSS-026 compares them with the registry.
REGISTERED = {(ObjectiveModuleConfig, "name"), (DiagnosticModuleConfig, "name")}


@pytest.mark.invariant("CONFIG-005")
def test_the_sections_are_those_of_the_specification():
    assert set(build_rule().properties or {}) == SECTIONS


@pytest.mark.invariant("CONFIG-005")
@pytest.mark.parametrize(("path", "cls", "rule"), CLASSES, ids=[path for path, _, _ in CLASSES])
def test_schema_and_type_agree_in_names_types_defaults_and_requirement(path, cls, rule):
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name != "sources"}
    assert set(fields) == set(rule.properties)
    for key, child in rule.properties.items():
        default = default_of(fields[key])
        assert described(hints[key]) == set(child.names), key
        assert plain(default) == child.default, key
        assert (default is REQUIRED) == (key in rule.required), key


@pytest.mark.invariant("CONFIG-005")
@pytest.mark.parametrize(("path", "cls", "rule"), CLASSES, ids=[path for path, _, _ in CLASSES])
def test_choices_of_schema_and_type_are_the_same(path, cls, rule):
    for key, hint in get_type_hints(cls).items():
        if key == "sources" or (cls, key) in REGISTERED:
            continue
        child = rule.properties[key]
        inner = child.items if child.items is not None else child
        literals = {
            value for part in (hint, *get_args(hint)) if get_origin(part) is Literal for value in get_args(part)
        }
        assert literals == set(inner.enum or ()), key


@pytest.mark.invariant("CONFIG-005")
@pytest.mark.parametrize(("path", "cls", "rule"), CLASSES, ids=[path for path, _, _ in CLASSES])
def test_types_are_frozen(path, cls, rule):
    assert cls.__dataclass_params__.frozen


def test_null_as_a_value_is_always_the_default_so_removing_and_setting_it_agree():
    for path, _, rule in CLASSES:
        for key, child in rule.properties.items():
            assert not child.nullable or child.default is None, f"{path}.{key}"


@pytest.mark.parametrize("path", sorted((contracts_root() / "config").glob("*.json")), ids=lambda path: path.name)
def test_a_config_schema_is_small_closed_and_described(path):
    text = path.read_text(encoding="utf-8")
    schema = json.loads(text)
    stem = path.name.removesuffix(".schema.json")
    assert schema["$id"] == ("coordexp:config" if stem == "config" else f"coordexp:config/{stem}")
    assert text.count("\n") <= 120
    if schema["type"] == "object" and "x-open" not in schema:
        assert schema["additionalProperties"] is False


@pytest.mark.invariant("CONFIG-020")
def test_configurations_are_shipped_for_every_kind():
    kinds = {path.relative_to(CONFIGS).parts[0] for path in shipped_runs(CONFIGS)}
    assert kinds == {"stage1", "stage2_two_channel", "stage2_rollout_aligned"}
    names = {f"{path.parent.name}/{path.stem}" for path in discover_profiles(CONFIGS)}
    wanted = {f"{folder}/{leaf}" for folder in PROFILE_FOLDERS for leaf in ("a_only", "b_only", "ab_mixed")}
    own = {f"smoke/{leaf}_hf" for leaf in ("b_only", "ab_mixed", "ab_mixed_st")}
    own |= {f"smoke/{leaf}" for leaf in ("ab_mixed_st", "ab_mixed_pipeline", "ab_mixed_colocate", "quickstart")}
    assert wanted | own == names
    assert (CONFIGS / "stage1/ablation/geometry_first_coco80.yaml").is_file()


@pytest.mark.invariant("CONFIG-020")
@pytest.mark.parametrize("path", shipped_runs(CONFIGS), ids=name)
def test_a_shipped_configuration_loads_as_its_folder_says(path, tmp_path):
    config = load_config(path)
    folder = path.relative_to(CONFIGS).parts[0]
    assert config.custom.trainer_variant == folder
    resolved = tmp_path / "resolved.json"
    resolved.write_text(render_resolved(config), encoding="utf-8")
    assert load_config(resolved) == config


@pytest.mark.invariant("CONFIG-020")
@pytest.mark.parametrize("path", BASES, ids=name)
def test_a_shipped_base_has_no_fault_but_what_its_children_add(path):
    try:
        load_config(path)
    except ConfigError as error:
        faults = [str(problem) for problem in error.problems if "required and missing" not in problem.message]
        assert faults == []


@pytest.mark.invariant("CONFIG-020")
def test_runs_have_names_and_folders_of_their_own():
    trainings = [load_config(path).training for path in shipped_runs(CONFIGS)]
    for key in ("run_name", "output_dir", "logging_dir"):
        values = [getattr(training, key) for training in trainings]
        assert len(set(values)) == len(values), key


@pytest.mark.invariant("CONFIG-020")
def test_the_two_channel_base_states_its_weights():
    base = yaml.safe_load((CONFIGS / "stage2_two_channel/base.yaml").read_text())
    assert (base["stage2_ab"]["bbox_smoothl1_weight"], base["stage2_ab"]["bbox_ciou_weight"]) == (2.0, 0.5)
    soft = base["custom"]["coord_soft_ce_w1"]
    assert (soft["soft_ce_weight"], soft["w1_weight"]) == (0.02, 0.02)
    assert "extends" not in base


@pytest.mark.invariant("CONFIG-020")
@pytest.mark.parametrize("path", sorted((CONFIGS / "stage2_two_channel/prod").glob("*.yaml")), ids=name)
def test_a_production_profile_pins_its_objective(path):
    leaf = yaml.safe_load(path.read_text())
    assert (leaf["stage2_ab"]["bbox_ciou_weight"], leaf["stage2_ab"]["coord_ce_weight"]) == (0.2, 0.02)
    soft = leaf["custom"]["coord_soft_ce_w1"]
    assert (soft["soft_ce_weight"], soft["w1_weight"], soft["target_truncate"]) == (0.1, 0.1, 8)


@pytest.mark.invariant("CONFIG-020")
@pytest.mark.parametrize("leaf", ["ab_mixed_st", "ab_mixed_st_hf"])
def test_the_straight_through_profile_turns_both_bridges_on(leaf):
    stage2 = load_config(CONFIGS / f"stage2_two_channel/smoke/{leaf}.yaml").stage2_ab
    assert stage2 is not None
    assert (stage2.coord_ctx_embed_mode, stage2.coord_decode_mode) == ("st", "st")


@pytest.mark.invariant("CONFIG-020")
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("stage2_*/smoke/*.yaml")), ids=name)
def test_the_name_of_a_smoke_run_says_who_generates_its_rollouts(path):
    config = load_config(path)
    assert config.rollout_matching is not None
    # Channel A alone rolls out in evaluations alone, and needs no server for them.
    own = path.stem.endswith("hf") or path.stem == "a_only"
    assert config.rollout_matching.rollout_backend == ("hf" if own else "vllm")
    assert (config.rollout_matching.vllm is None) == own
    # Each runs on a CPU, with a checkpoint that ships.
    level = "-level" * (path.stem == "quickstart")
    assert config.model.model == f"fixtures/tiny-qwen3vl{level}"
    assert (config.model.torch_dtype, config.training.bf16, config.tuner.tuner_type) == ("float32", False, "full")


@pytest.mark.invariant("CONFIG-020")
def test_a_smoke_run_with_a_server_differs_from_its_twin_in_who_generates_alone():
    pairs = {f"stage2_two_channel/smoke/{leaf}": f"{leaf}_hf" for leaf in ("b_only", "ab_mixed", "ab_mixed_st")}
    for served, twin in {**pairs, "stage2_rollout_aligned/smoke/server": "hf"}.items():
        path = CONFIGS / f"{served}.yaml"
        one, other = (own_values(load_config(place)) for place in (path, path.with_name(f"{twin}.yaml")))
        assert one == other, served


def own_values(config: Config) -> Config:
    """A configuration without its names, its folders, and who generates."""
    assert config.rollout_matching is not None
    rollout = dataclasses.replace(config.rollout_matching, rollout_backend="hf", vllm=None)
    training = dataclasses.replace(config.training, run_name="", output_dir="", logging_dir="")
    return dataclasses.replace(config, rollout_matching=rollout, training=training)


@pytest.mark.invariant("CONFIG-020")
@pytest.mark.parametrize(
    "run",
    [
        *(f"stage2_two_channel/smoke/{leaf}" for leaf in ("a_only", "ab_mixed_hf", "ab_mixed_st_hf", "b_only_hf")),
        "stage2_rollout_aligned/smoke/hf",
    ],
)
def test_a_smoke_run_on_drawn_shapes_weighs_rollouts_as_stage_1_weighs_ground_truth(run):
    def weights(name: str) -> dict[str, Any]:
        entries = resolved_document(resolve_manifest(load_config(CONFIGS / f"{name}.yaml")))["objective"]
        merged = {key: value for entry in entries for key, value in entry["config"].items()}
        return {key: value for key, value in merged.items() if not key.startswith("self_context_")}

    stage1, rollouts = weights("stage1/smoke/shapes"), weights(run)
    assert rollouts["rollout_fn_desc_weight"] == stage1["desc_ce_weight"] == 10.0
    for key in ("desc_ce_weight", "rollout_fn_desc_weight"):
        del stage1[key], rollouts[key]
    assert rollouts == stage1


@pytest.mark.invariant("CONFIG-020")
def test_the_explicit_pipeline_equals_what_the_flat_weights_resolve_to():
    flat, explicit = (
        resolve_manifest(load_config(CONFIGS / f"stage2_two_channel/smoke/{leaf}.yaml"))
        for leaf in ("ab_mixed", "ab_mixed_pipeline")
    )
    assert checksum(flat) == checksum(explicit)


@pytest.mark.invariant("CONFIG-019")
def test_the_reference_page_is_current():
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == render_reference(ROOT), "run python -m coordexp.config.document"
