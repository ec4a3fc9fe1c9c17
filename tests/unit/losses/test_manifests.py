"""Flat knobs and authored pipelines to manifests, their canonical form and checksum, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.config import Config, Sources
from coordexp.config.rollout_sections import RolloutMatchingConfig, Stage2AbConfig
from coordexp.config.sections import CoordSoftCeW1Config, CustomConfig, DataConfig, ModelConfig, TrainingConfig
from coordexp.config.typed import build_section
from coordexp.losses.defaults import FLAT_KNOBS, resolve_manifest
from coordexp.losses.manifest import (
    Manifest,
    ModuleEntry,
    checksum,
    describe_modules,
    parse_modules,
    render_canonical,
    resolved_document,
)
from coordexp.losses.specs.bbox_geo import BboxGeoConfig
from coordexp.losses.specs.coord_reg import CoordRegConfig
from coordexp.losses.specs.token_ce import TokenCEConfig
from coordexp.losses.specs.types import ManifestError
from coordexp.spec import check, contracts_root, load_cases, read_schema, read_yaml
from tests.unit.losses.synthetic import mask_weights

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "losses"
CHECKSUMS = load_cases(FIXTURES / "checksums.json").cases
MODULES = load_cases(FIXTURES / "modules.json").cases
DEFAULTS = check("losses/manifests", read_yaml(contracts_root() / "losses" / "manifests.yaml"))


def make_config(variant: str, **sections: dict[str, Any]) -> Config:
    """A configuration with the given values of `custom`, `stage2_ab` and `rollout_matching`."""
    custom = {"train_jsonl": "x.jsonl", "trainer_variant": variant, **sections.get("custom", {})}
    two_channel, rollout = (sections.get(name) for name in ("stage2_ab", "rollout_matching"))
    return Config(
        model=ModelConfig(model="m"),
        data=DataConfig(dataset=("dummy",), val_dataset=("dummy",)),
        training=TrainingConfig(output_dir="o", run_name="r", logging_dir="l"),
        custom=build_section(CustomConfig, custom),
        global_max_length=1000,
        stage2_ab=None if two_channel is None else build_section(Stage2AbConfig, two_channel),
        rollout_matching=None if rollout is None else build_section(RolloutMatchingConfig, rollout),
        sources=Sources(Path("x.yaml"), (), {}, Path()),
    )


def two_channel(**knobs: Any) -> dict[str, Any]:
    return {"schedule": {"b_ratio": 0.5}, **knobs}


PIPELINE = {"objective": [{"name": "token_ce"}, {"name": "bbox_geo"}]}


def written_out(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of a case with every key, defaults from the contracts."""
    properties = read_schema(f"losses/{entry['name']}")["properties"]
    config = {key: value["default"] for key, value in properties.items()} | entry.get("config", {})
    return {"enabled": True, "weight": 1.0, "channels": ["A", "B"], **entry, "config": config}


@pytest.mark.invariant("LOSS-015")
@pytest.mark.invariant("LOSS-016")
@pytest.mark.parametrize("case", CHECKSUMS, ids=lambda case: case.description)
def test_objective_has_its_canonical_form_and_the_checksum_of_it(case: Any) -> None:
    given, expect = dict(case.input), case.expect
    document = {section: [written_out(entry) for entry in expect[section]] for section in ("objective", "diagnostics")}
    document["extra"] = expect["extra"]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    manifest = resolve_manifest(make_config(given.pop("variant"), **given))
    assert render_canonical(manifest) == canonical == expect.get("canonical", canonical)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    assert checksum(manifest) == digest == expect.get("checksum", digest)


def flat_value(config: Config, dotted: str) -> Any:
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


# Every section on, and every number unlike its default.
COORD = {
    "enabled": True, "ce_weight": 0.11, "soft_ce_weight": 0.12, "w1_weight": 0.13, "gate_weight": 0.14,
    "text_gate_weight": 0.15, "temperature": 0.16, "target_sigma": 0.17, "target_truncate": 18,
}  # fmt: skip
CUSTOM = {
    "desc_ce_weight": 0.19,
    "coord_soft_ce_w1": COORD,
    "bbox_geo": {"enabled": True, "smoothl1_weight": 0.21, "ciou_weight": 0.22},
}
FLAT = two_channel(
    desc_ce_weight=0.23, fmt_struct_ce_weight=0.24, bbox_smoothl1_weight=0.25, bbox_ciou_weight=0.26,
    coord_ce_weight=0.27, coord_el1_weight=0.28, coord_ehuber_weight=0.29, coord_entropy_weight=0.31,
    coord_gate_weight=0.32, text_gate_weight=0.33, channel_b={"drop_invalid_struct_ce_multiplier": 3.4},
)  # fmt: skip


@pytest.mark.invariant("LOSS-015")
@pytest.mark.parametrize("variant", list(DEFAULTS))
def test_default_manifest_is_the_contract_s(variant: str) -> None:
    config = make_config(variant, custom=CUSTOM, stage2_ab=FLAT, rollout_matching={})
    manifest, promised = resolve_manifest(config), DEFAULTS[variant]
    assert [entry.name for entry in manifest.objective] == list(promised["objective"])
    assert [entry.name for entry in manifest.diagnostics] == promised["diagnostics"]
    assert list(resolved_document(manifest)["extra"]) == promised["extra"]
    assert all(entry.enabled and entry.weight == 1.0 for entry in (*manifest.objective, *manifest.diagnostics))
    for entry in manifest.objective:
        sources, found = promised["objective"][entry.name], dataclasses.asdict(entry.config)
        expected = dataclasses.asdict(type(entry.config)())
        for key, source in sources.items():
            expected[key] = flat_value(config, source) if isinstance(source, str) else source
        assert found == expected


@pytest.mark.invariant("LOSS-015")
@pytest.mark.parametrize("variant", list(DEFAULTS))
def test_distribution_terms_are_off_until_their_section_is_enabled(variant: str) -> None:
    custom = {"coord_soft_ce_w1": {**COORD, "enabled": False}}
    manifest = resolve_manifest(make_config(variant, custom=custom, stage2_ab=two_channel(), rollout_matching={}))
    config = manifest.config_of("coord_reg", CoordRegConfig)
    assert config == CoordRegConfig()
    assert (config.soft_ce_weight, config.w1_weight, config.self_context_soft_ce_weight) == (0.0, 0.0, 0.05)


@pytest.mark.invariant("LOSS-016")
def test_checksum_ignores_spelling_and_notices_meaning() -> None:
    def manifest(**changes: Any) -> Manifest:
        geo = ModuleEntry("bbox_geo", BboxGeoConfig())
        return Manifest((dataclasses.replace(geo, **changes), ModuleEntry("token_ce", TokenCEConfig())))

    same = [manifest(weight=1), manifest(channels=("B", "A")), manifest(config=BboxGeoConfig(1, 1))]
    other = [
        manifest(weight=1.0000001),
        manifest(enabled=False),
        manifest(channels=("A",)),
        manifest(config=BboxGeoConfig(0.0, 1.0)),
        Manifest(tuple(reversed(manifest().objective))),
        Manifest(manifest().objective, (ModuleEntry("token_ce", TokenCEConfig()),)),
        *(Manifest(manifest().objective, (), "stage2_rollout_aligned", decode) for decode in ("exp", "st")),
        *(Manifest(manifest().objective, (), "stage2_two_channel", "exp", embed) for embed in ("soft", "st", "hard")),
    ]
    assert {checksum(m) for m in same} == {checksum(manifest())}
    assert len({checksum(m) for m in (manifest(), *other)}) == len(other) + 1
    assert checksum(manifest(weight=-0.0)) == checksum(manifest(weight=0.0))
    assert json.loads(render_canonical(manifest()))["objective"][0]["name"] == "bbox_geo"


@pytest.mark.invariant("LOSS-016")
@pytest.mark.parametrize("variant", ["stage2_two_channel", "stage2_rollout_aligned"])
def test_keys_that_are_left_out_in_another_order_or_at_their_default_are_one_pipeline(variant: str) -> None:
    section = "stage2_ab" if variant == "stage2_two_channel" else "rollout_matching"
    short = [{"name": "token_ce"}, {"config": {"w1_weight": 2}, "name": "coord_reg"}]
    full: list[dict[str, Any]] = [
        {
            "config": dict(reversed(dataclasses.asdict(TokenCEConfig()).items())),
            "channels": ["B", "A"], "weight": 1, "enabled": True, "name": "token_ce",
        },
        {"name": "coord_reg", "weight": 1.0, "config": {**dataclasses.asdict(CoordRegConfig()), "w1_weight": 2.0}},
    ]  # fmt: skip
    found = set()
    for objective, diagnostics in ((short, {}), (full, {"diagnostics": []})):
        sections: dict[str, Any] = {"stage2_ab": two_channel(), "rollout_matching": {}}
        sections[section] |= {"pipeline": {**diagnostics, "objective": objective}}
        found.add(checksum(resolve_manifest(make_config(variant, **sections))))
    assert len(found) == 1


@pytest.mark.invariant("LOSS-016")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ManifestError, match=r"bbox_geo\.config\.ciou_weight is .*must be finite"):
        checksum(Manifest((ModuleEntry("bbox_geo", BboxGeoConfig(ciou_weight=value)),)))
    with pytest.raises(ManifestError, match=r"token_ce\.weight is .*must be finite"):
        checksum(Manifest((ModuleEntry("token_ce", TokenCEConfig(), weight=value),)))


@pytest.mark.invariant("LOSS-016")
def test_the_log_line_lists_modules_in_order_with_the_checksum() -> None:
    manifest = resolve_manifest(make_config("stage2_two_channel", stage2_ab=two_channel()))
    text = describe_modules(manifest)
    assert text.startswith(
        "objective: token_ce x1 AB, bbox_geo x1 AB, coord_reg x1 AB; diagnostics: coord_diag x1 AB; "
    )
    assert text.endswith(checksum(manifest))


@pytest.mark.invariant("LOSS-017")
@pytest.mark.parametrize("knob", list(FLAT_KNOBS))
def test_a_flat_knob_beside_a_pipeline_is_refused_with_its_new_place(knob: str) -> None:
    value: Any = flat_value(make_config("stage2_two_channel", stage2_ab=FLAT), f"stage2_ab.{knob}")
    for name in reversed(knob.split(".")):
        value = {name: value}
    module, key = FLAT_KNOBS[knob][0]
    with pytest.raises(ManifestError, match=rf"stage2_ab\.{knob} has no effect: delete it and .*{module} {key}"):
        resolve_manifest(make_config("stage2_two_channel", stage2_ab=two_channel(pipeline=PIPELINE, **value)))


@pytest.mark.invariant("LOSS-017")
@pytest.mark.parametrize(
    ("variant", "sections", "message"),
    [
        (
            "stage2_two_channel",
            {"stage2_ab": two_channel(), "rollout_matching": {"pipeline": PIPELINE}},
            r"rollout_matching\.pipeline has no effect under stage2_two_channel: move it to stage2_ab\.pipeline",
        ),
        (
            "stage2_rollout_aligned",
            {"stage2_ab": two_channel(pipeline=PIPELINE), "rollout_matching": {}},
            r"stage2_ab\.pipeline has no effect under stage2_rollout_aligned: move it to rollout_matching\.pipeline",
        ),
        (
            "stage2_two_channel",
            {"stage2_ab": two_channel(pipeline=PIPELINE), "custom": {"coord_soft_ce_w1": {"enabled": True}}},
            r"custom\.coord_soft_ce_w1 has no effect.*coord_reg",
        ),
        (
            "stage2_rollout_aligned",
            {"rollout_matching": {"pipeline": PIPELINE}, "custom": {"coord_soft_ce_w1": {"enabled": True}}},
            r"custom\.coord_soft_ce_w1 has no effect.*coord_reg",
        ),
        ("stage2_two_channel", {}, "stage2_two_channel needs the section stage2_ab"),
    ],
)
def test_an_objective_stated_twice_or_elsewhere_is_refused(variant: str, sections: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        resolve_manifest(make_config(variant, **sections))


@pytest.mark.invariant("LOSS-017")
@pytest.mark.parametrize("variant", ["stage2_two_channel", "stage2_rollout_aligned"])
def test_an_authored_pipeline_alone_is_taken(variant: str) -> None:
    sections = {"stage2_ab": two_channel(), "rollout_matching": {}}
    section = "stage2_ab" if variant == "stage2_two_channel" else "rollout_matching"
    sections[section] = sections[section] | {"pipeline": PIPELINE}
    manifest = resolve_manifest(make_config(variant, **sections))
    assert [entry.name for entry in manifest.objective] == ["token_ce", "bbox_geo"]
    assert manifest.diagnostics == () and manifest.variant == variant


@pytest.mark.invariant("LOSS-018")
@pytest.mark.parametrize("case", MODULES, ids=lambda case: case.description)
def test_authored_modules_are_taken_or_refused_by_name(case: Any) -> None:
    section, entries = case.input["section"], case.input["entries"]
    if "error" not in case.expect:
        parsed = parse_modules(entries, section, "stage2_ab.pipeline")
        assert [entry.name for entry in parsed] == case.expect["names"]
        return
    with pytest.raises(ManifestError) as refusal:
        parse_modules(entries, section, "stage2_ab.pipeline")
    assert case.expect["error"] in str(refusal.value)


@pytest.mark.invariant("LOSS-018")
def test_an_authored_entry_keeps_its_values_and_gets_the_missing_ones() -> None:
    entry = {"name": "bbox_geo", "enabled": False, "weight": 2, "channels": ["B"], "config": {"ciou_weight": 3}}
    assert parse_modules([entry], "objective", "p") == (
        ModuleEntry("bbox_geo", BboxGeoConfig(1.0, 3.0), False, 2.0, ("B",)),
    )


@pytest.mark.invariant("LOSS-018")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_authored_numbers_are_finite(value: float) -> None:
    with pytest.raises(ManifestError, match=r"p\.objective\[0\]\.weight is .*must be finite"):
        parse_modules([{"name": "token_ce", "weight": value}], "objective", "p")
    with pytest.raises(ManifestError, match=r"p\.objective\[0\]\.config\.desc_ce_weight is .*must be finite"):
        parse_modules([{"name": "token_ce", "config": {"desc_ce_weight": value}}], "objective", "p")


@pytest.mark.invariant("LOSS-001")
def test_mask_weights_come_from_the_enabled_modules() -> None:
    token_ce, coord = ModuleEntry("token_ce", TokenCEConfig(2.0)), ModuleEntry("coord_reg", CoordRegConfig(0.3))
    assert Manifest((token_ce, coord)).mask_weights() == mask_weights(0.3, desc_ce_weight=2.0)
    off = dataclasses.replace(coord, enabled=False)
    assert Manifest((token_ce, off)).mask_weights() == mask_weights(0.0, desc_ce_weight=2.0)
    assert CoordSoftCeW1Config().ce_weight == 0.0
    assert Manifest(()).mask_weights() == mask_weights()


@pytest.mark.invariant("LOSS-001")
def test_the_mask_of_text_tokens_stays_while_their_cross_entropy_is_off() -> None:
    """The text gate reads which tokens have a weight."""
    off = ModuleEntry("token_ce", TokenCEConfig(0.0, rollout_fn_desc_weight=0.3), enabled=False)
    assert Manifest((off,)).mask_weights() == mask_weights(desc_ce_weight=0.0, rollout_fn_desc_weight=0.3)


@pytest.mark.invariant("LOSS-016")
@pytest.mark.parametrize(
    ("variant", "modes", "says"),
    [
        ("stage1", {}, None),
        ("stage1", {"coord_decode_mode": "exp"}, "stage1 does not read coord_decode_mode, which is 'exp'"),
        ("stage1", {"coord_ctx_embed_mode": "st"}, "stage1 does not read coord_ctx_embed_mode"),
        ("stage2_two_channel", {"coord_decode_mode": "st", "coord_ctx_embed_mode": "hard"}, None),
        ("stage2_two_channel", {"coord_decode_mode": "st"}, "reads coord_ctx_embed_mode, which the manifest leaves"),
        ("stage2_two_channel", {"coord_ctx_embed_mode": "st"}, "reads coord_decode_mode, which the manifest leaves"),
        ("stage2_rollout_aligned", {"coord_decode_mode": "st"}, None),
        (
            "stage2_rollout_aligned",
            {"coord_decode_mode": "st", "coord_ctx_embed_mode": "st"},
            "stage2_rollout_aligned does not read coord_ctx_embed_mode, which is 'st'; leave it out",
        ),
    ],
)
def test_a_manifest_has_the_modes_that_its_variant_reads(variant: Any, modes: Any, says: str | None) -> None:
    objective = (ModuleEntry("token_ce", TokenCEConfig()),)
    if says is not None:
        with pytest.raises(ManifestError, match=says):
            Manifest(objective, (), variant, **modes)
        return
    extra = resolved_document(Manifest(objective, (), variant, **modes))["extra"]
    assert {key.rpartition(".")[2]: value for key, value in extra.items()} == {"variant": variant, **modes}
    assert list(extra) == DEFAULTS[variant]["extra"]
