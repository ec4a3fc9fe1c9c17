"""Every key of the configuration, followed from YAML to the object that acts on it, with a value that is no default.

A row names a miniature of tests/plugins/receivers.py and what to ask of it; a key without a row fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from coordexp.config.rules import REQUIRED, Rule, build_rule
from tests.contract import receiver_rows, receiver_rows_stage2
from tests.contract.receiver_rows_stage2 import READERS, WAITING

if TYPE_CHECKING:
    from tests.plugins.receivers import Built
    from tests.plugins.stage2 import Stage2Kit

ROWS = (*receiver_rows.ROWS, *receiver_rows_stage2.ROWS)
# Followed where a build cannot show them, or by more than a value; each names the test below or elsewhere.
ELSEWHERE = {
    "data.dataset_num_proc": "tests/unit/training/test_measure.py",
    "data.dataloader_pin_memory": "test_page_locked_memory_serves_a_gpu_alone",
    "custom.offline_max_pixels": "test_the_offline_cap_is_compared_with_the_hard_one",
    "custom.trainer_variant": "tests/unit/training/test_train_command.py",
    "custom.coord_offset.ids.start": "tests/unit/training/test_stage1_run.py",
    "custom.coord_offset.ids.end": "tests/unit/training/test_stage1_run.py",
    "custom.extra": "kept in the resolved config; nothing reads it, as its contract says",
    "deepspeed.enabled": "tests/ddp/test_short_steps.py",
    "deepspeed.config": "tests/ddp/test_short_steps.py",
    "training.fp16": "refused on a CPU: tests/unit/training/test_stage1_variants.py",
    "quantization": "an empty section",
    "rlhf": "an empty section",
}


def leaves(rule: Rule, path: tuple[str, ...] = ()) -> dict[str, Rule]:
    """Every key that holds a value, by its dotted path."""
    found: dict[str, Rule] = {}
    for name, inner in (rule.properties or {}).items():
        found |= leaves(inner, (*path, name)) if inner.properties else {".".join((*path, name)): inner}
    return found


KEYS = leaves(build_rule())


def written(built: Built, key: str) -> Any:
    """The value of a key in the miniature's resolved configuration."""
    value: Any = built.config
    for part in key.split("."):
        value = getattr(value, part)
    return list(value) if isinstance(value, tuple) else value


def is_fixed(rule: Rule) -> bool:
    """Whether the key takes a single value."""
    only = rule.items.enum if rule.items is not None else rule.enum
    return only is not None and len(only) == 1 and rule.size[0] <= 1 and not (rule.items and rule.default == list(only))


@pytest.mark.invariant("TRAIN-027")
@pytest.mark.parametrize("row", ROWS, ids=[f"{row.key}-{row.build}-{number}" for number, row in enumerate(ROWS)])
def test_a_key_reaches_what_acts_on_it(row: receiver_rows.Row, built_run: Callable[[str], Built]) -> None:
    built = built_run(row.build)
    value = written(built, row.key)
    assert (
        value != KEYS[row.key].default
        or KEYS[row.key].default is REQUIRED
        or row.expected is not None
        or (row.key == "training.packing")
    ), "a default proves nothing"
    found = row.ask(built)
    assert found == (value if row.expected is None else row.expected)


@pytest.mark.invariant("TRAIN-027")
def test_every_key_has_a_row_a_single_value_or_a_place() -> None:
    rows = {row.key for row in ROWS}
    assert rows <= KEYS.keys() and ELSEWHERE.keys() <= KEYS.keys() and not rows & ELSEWHERE.keys()
    missing = [
        key
        for key, rule in KEYS.items()
        if key not in rows and key not in ELSEWHERE and key not in WAITING and not is_fixed(rule)
    ]
    assert missing == []


@pytest.mark.invariant("TRAIN-027")
def test_keys_that_wait_have_no_row_yet() -> None:
    assert WAITING.keys() <= KEYS.keys() and {None, *WAITING.values()} == READERS.keys()
    assert not WAITING.keys() & ({row.key for row in ROWS} | ELSEWHERE.keys())
    assert not [key for key in WAITING if is_fixed(KEYS[key])]


@pytest.mark.invariant("TRAIN-027")
@pytest.mark.invariant("TRAIN-033")
@pytest.mark.parametrize("key", READERS)
def test_what_would_read_keys_that_wait_is_refused_by_a_run_and_listed_by_a_dry_run(
    stage2_kit: Stage2Kit, key: str | None
) -> None:
    from coordexp.config import ConfigError, load_config
    from coordexp.training.build import build_run
    from coordexp.training.dry_run import dry_run

    told: dict[str, dict[str, Any]] = {
        "custom": {"trainer_variant": "stage2_two_channel"},
        "stage2_ab": {"schedule": {"b_ratio": 1.0}},
        "rollout_matching": {"pipeline": None},
    }
    written = {section: values | READERS[key].get(section, {}) for section, values in told.items()}
    config = load_config(stage2_kit.write(f"waiting_{key}", row=800, **written))
    lines = [line for line in dry_run(config) if line.startswith("not trained by this version: ")]
    if key is None:
        assert lines == [] and build_run(config).config is config
        return
    assert len(lines) == 1 and f" {key}: " in lines[0]
    with pytest.raises(ConfigError, match=rf"1 problem\n.* {key}: "):
        build_run(config)


@pytest.mark.invariant("TRAIN-027")
def test_page_locked_memory_serves_a_gpu_alone(built_run: Callable[[str], Built]) -> None:
    from coordexp.training.build import placement_on

    data = built_run("workers").config.data
    plain = built_run("packed").config.data
    assert data.dataloader_pin_memory and not plain.dataloader_pin_memory
    found = [
        placement_on(torch.device(kind), section).pin_memory for kind in ("cuda", "cpu") for section in (data, plain)
    ]
    assert found == [True, False, False, False]


@pytest.mark.invariant("TRAIN-027")
def test_what_the_run_reads_is_read_from_its_image_root(built_run: Callable[[str], Built]) -> None:
    built = built_run("frozen_text")
    images = Path(built.config.custom.image_root) / "images"
    item = built.parts.plans.dataset[0]
    assert item.image.size == (item.record.width, item.record.height)
    hidden = images.with_name("moved")
    images.rename(hidden)
    try:
        assert "does not exist" in str(built.parts.plans.dataset[0])
    finally:
        hidden.rename(images)
    assert built.parts.validation is None, "a run without custom.val_jsonl validates nothing"


@pytest.mark.invariant("TRAIN-027")
def test_events_go_to_the_logging_folder(built_run: Callable[[str], Built]) -> None:
    from coordexp.training.arguments import build_swift_arguments

    built = built_run("frozen")
    build_swift_arguments(built.config)
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == built.config.training.logging_dir


@pytest.mark.invariant("TRAIN-027")
def test_the_objective_scores_the_vocabularys_coord_ids(built_run: Callable[[str], Built]) -> None:
    from coordexp.coords.vocab import build_coord_vocab

    for name in ("packed", "workers"):
        built = built_run(name)
        expected = build_coord_vocab(built.encoder.tokenizer).ids
        assert len(set(built.parts.run.coord_ids)) == 1000 and built.parts.run.coord_ids == expected


@pytest.mark.invariant("TRAIN-027")
def test_training_and_validation_read_their_own_keys(built_run: Callable[[str], Built]) -> None:
    """Values differ between both, so one that is taken for the other shows."""
    packed, workers = built_run("packed"), built_run("workers")
    assert packed.parts.plans.split.per_forward == 2 and packed.parts.validation.split.per_forward == 3
    assert len(packed.parts.validation) == 1 and len(packed.parts.validation.packs.packs) == 1
    assert set(packed.stored(packed.parts.plans)) <= {f"records.jsonl:{line}" for line in range(1, 15)}
    assert len(set(packed.stored(packed.parts.plans))) == 9, "without replacement"
    assert len(set(workers.stored(workers.parts.validation))) <= 3 < len(workers.parts.validation.dataset)


@pytest.mark.invariant("TRAIN-027")
def test_the_offline_cap_is_compared_with_the_hard_one(tmp_path: Path, built_run: Callable[[str], Built]) -> None:
    from coordexp.config import ConfigError, load_config

    source = yaml.safe_load((built_run("frozen").folder / "config.yaml").read_text(encoding="utf-8"))
    for offline, fine in ((65536, True), (65537, False)):
        source["custom"]["offline_max_pixels"] = offline
        path = tmp_path / f"{offline}.yaml"
        path.write_text(yaml.safe_dump(source), encoding="utf-8")
        if fine:
            assert load_config(path).custom.offline_max_pixels == offline
        else:
            with pytest.raises(ConfigError, match=r"custom.offline_max_pixels: 65537 is above the hard cap"):
                load_config(path)
