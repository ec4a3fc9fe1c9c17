"""What the author of a configuration is told, text by text: what is wrong, what is allowed, what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.config import ConfigError, load_config
from tests.unit.config.minimal import DOCUMENTS, STAGE1, with_values, write

TOPICS = ("cross_checks", "legacy_keys", "lengths", "pipelines", "variants")
SERVER = {"base_url": "http://a:1", "group_port": 2}
VALUES: list[tuple[str, Any]] = [
    ("training.learning_rate", "1e-4"),
    ("training.learning_rate", "1e-6"),
    ("training.learning_rate", "25e-7"),
    ("training.learning_rate", "17"),
    ("training.learning_rate", "1" * 30),
    ("training.learning_rate", "1" * 31),
    ("training.learning_rate", "1e999"),
    ("training.learning_rate", "fast"),
    ("training.learning_rate", None),
    ("training.learning_rate", [1]),
    ("training.seed", "17"),
    ("training.seed", "17.0"),
    ("training.seed", "17.5"),
    ("training.seed", 17.0),
    ("training.seed", 17.5),
    ("training.seed", True),
    ("training.seed", -1),
    ("training.seed", 2**31),
    ("training.adam_beta1", 1.0),
    ("training.num_train_epochs", 0),
    ("training.eval_strategy", False),
    ("training.eval_strategy", True),
    ("training.eval_strategy", "stepz"),
    ("training.eval_strategy", "sometimes, and then again not at all, as the weather may be"),
    ("training.save_only_model", False),
    ("training.save_only_model", None),
    ("training.report_to", ["tensorboard", "tensorboard"]),
    ("training.report_to", ["wandb"]),
    ("training.run_name", ""),
    ("training.run_name", " "),
    ("training.run_name", "a\nb"),
    ("training.output_dir", "$HOME/out"),
    ("training.output_dir", "~/out"),
    ("training.output_dir", " "),
    ("training.output_dir", "a\tb"),
    ("training", None),
    ("training", 3),
    ("training", "17"),
    ("training.coord_decode_mode", "exp"),
    ("tuner.target_modules", []),
    ("tuner.target_modules", "all-linear"),
    ("tuner.target_modules", [1]),
    ("data.dataset", []),
    ("data.dataset", ["a", "b"]),
    ("model.model", 3.0),
    ("model.model", False),
    ("global_max_length", 12.0),
    ("global_max_length", 12.5),
    ("custom.coord_offset.ids", {"start": 5, "end": 1005}),
    ("custom.emit_norm", "norm1000"),
    ("learning_rate", 0.1),
    ("training.warmup_ration", 0.1),
    ("training.learningRate", 0.1),
    ("training.Learning-Rate", 0.1),
    ("training.zzz", 1),
    ("training.max_pixels", 1),
    ("training.enabled", True),
    ("rlhf.beta", 0.1),
    ("custom." + "k" * 100, 1),
    ("custom." + "k" * 101, 1),
    ("custom. a ", 1),
    ("custom.é", 1),
]
PAIRS: list[tuple[str, str, dict[str, Any]]] = [
    ("a batch that no device divides", "stage1",
     {"training.effective_batch_size": 7, "training.per_device_train_batch_size": 2}),
    ("a batch that accumulation does not divide", "stage1",
     {"training.effective_batch_size": 8, "training.gradient_accumulation_steps": 3,
      "training.per_device_train_batch_size": 2}),
    ("a batch smaller than its steps", "stage1",
     {"training.effective_batch_size": 4, "training.gradient_accumulation_steps": 4,
      "training.per_device_train_batch_size": 2}),
    ("min_lr at the peak", "stage1",
     {"training.lr_scheduler_type": "cosine_with_min_lr", "training.lr_scheduler_kwargs.min_lr": 0.0001}),
    ("both weights of an objective at 0", "stage1",
     {"custom.coord_soft_ce_w1": {"enabled": True, "soft_ce_weight": 0, "w1_weight": 0}}),
    ("a trainer of stage 2 without its section", "stage1", {"custom.trainer_variant": "stage2_rollout_aligned"}),
    ("boxes weighed by stage 1's section", "two_channel",
     {"custom.bbox_geo.smoothl1_weight": 0.5, "custom.bbox_geo.ciou_weight": 0.5}),
    ("boxes weighed by stage 1's section, rollout-aligned", "aligned", {"custom.bbox_geo.ciou_weight": 0.5}),
    ("the other trainer's pipeline, of channel A", "two_channel",
     {"rollout_matching.pipeline.objective": [{"name": "token_ce", "channels": ["A"]}]}),
    ("the other trainer's pipeline beside weights of its own", "two_channel",
     {"rollout_matching.pipeline.objective": [{"name": "token_ce"}], "stage2_ab.bbox_ciou_weight": 1.0}),
    ("a rollout-aligned pipeline that weighs nothing", "aligned",
     {"rollout_matching.pipeline.objective": [{"name": "token_ce", "weight": 0}]}),
    ("channel B alone where steps are of both", "two_channel",
     {"stage2_ab.pipeline.objective": [{"name": "token_ce", "channels": ["B"]}]}),
    ("a module of both channels where every step is one of B", "two_channel",
     {"stage2_ab.schedule.b_ratio": 1, "stage2_ab.pipeline.objective": [{"name": "token_ce"}]}),
    ("HF generation beside a short engine", "two_channel",
     {"rollout_matching.rollout_backend": "hf", "rollout_matching.vllm.max_model_len": 2000,
      "rollout_matching.max_new_tokens": 3000}),
    ("servers that are no list", "two_channel", {"rollout_matching.vllm.server.servers": 3}),
    ("rollouts that are no section", "two_channel", {"rollout_matching": 3}),
    ("one server in two orders of its keys", "two_channel",
     {"rollout_matching.vllm.server.servers": [SERVER, dict(reversed(SERVER.items()))]}),
    ("an engine beside a server", "two_channel", {"rollout_matching.vllm.colocate": {"gpu_memory_utilization": 0.3}}),
    ("servers beside an engine", "two_channel", {"rollout_matching.vllm.mode": "colocate"}),
    ("three servers, two of them one", "two_channel",
     {"rollout_matching.vllm.server.servers": [SERVER, {**SERVER, "base_url": "http://b:1"}, SERVER]}),
    ("the second server again, at another port", "two_channel",
     {"rollout_matching.vllm.server.servers": [SERVER, {**SERVER, "base_url": "http://b:1"},
                                               {"base_url": "http://b:1", "group_port": 3}]}),
    ("no server", "two_channel", {"rollout_matching.vllm.server.servers": []}),
    ("a server without a port", "two_channel", {"rollout_matching.vllm.server.servers": [{"base_url": "http://a:1"}]}),
    ("a server by its name alone", "two_channel",
     {"rollout_matching.vllm.server.servers": [{"base_url": "a", "group_port": 2}]}),
    ("an n-gram count without a length", "two_channel",
     {"rollout_matching.repeat_terminate": {"enabled": True, "ngram_repeats": 3}}),
    ("flat weights beside a pipeline", "two_channel",
     {"stage2_ab.pipeline.objective": [{"name": "token_ce"}], "stage2_ab.bbox_ciou_weight": 1.0,
      "stage2_ab.channel_b.drop_invalid_struct_ce_multiplier": 1.5, "custom.coord_soft_ce_w1": {"enabled": True}}),
    ("coord weights beside the rollout-aligned pipeline", "aligned",
     {"rollout_matching.pipeline.objective": [{"name": "token_ce"}], "custom.coord_soft_ce_w1": {"enabled": True}}),
    ("a note before rollouts where they were once", "two_channel",
     {"custom.extra": {"note": 1, "rollout_matching": {}}}),
    ("rollouts where they were once", "two_channel",
     {"custom.extra.rollout_matching": {"decode_batch_sise": 4, "decode_batch_size": 0}}),
]  # fmt: skip
FILES = {
    "a tab": "debug:\n\tenabled: true\n",
    "a tab after a space": "debug:\n \tenabled: true\n",
    "a tab after a key": "X\t: a: b\n",
    "a control character": "debug:\n  output_dir: a\x01b\n",
    "an open list": "debug: [\n",
    "two colons": "a: b: c\n",
    "a list of sections": "- debug\n",
    "nothing": "",
    "a merge key": "debug: &d {enabled: false}\nrlhf: {<<: *d}\n",
    "a number as key": "1: {}\n",
    "a number as key before an unknown one": "debug: {1: 2, enable: true}\n",
    "a list as key": "? [a, b]\n: 1\n",
    "a null as key": "debug: {null: 1}\n",
    "a date": "custom: {extra: {when: 2026-01-01}}\n",
    "clock time": "custom: {extra: {time: 12:30}}\n",
    "an octal number": "custom: {extra: {mode: 0755}}\n",
    "a number beyond 64 bits": "custom: {extra: {n: 9223372036854775808}}\n",
    "a number with 40 digits": f"custom: {{extra: {{n: -{'9' * 40}}}}}\n",
    "the largest number": "custom: {extra: {n: [9223372036854775807, -9223372036854775807]}}\n",
    "not a number": "custom: {extra: {weight: .nan}}\n",
    "infinity": "custom: {extra: {weight: -.inf}}\n",
    "itself": "custom: {extra: &e {again: *e}}\n",
    "itself where a number belongs": "training: &t {seed: *t}\n",
    "itself in a list": "custom: {extra: {list: &l [*l]}}\n",
    "a set": "custom: {extra: !!set {a, b}}\n",
    "a key twice": "debug:\n  enabled: false\n  enabled: true\n",
    "a key twice before an unknown one": "debug: {enabled: false, enabled: true, enable: 1}\n",
    "extends nothing": "extends: []\n",
    "extends a number": "extends: [run.yaml, 3]\n",
    "extends what is not there": "debug: {enabled: 1}\nextends: gone.yaml\n",
    "extends itself": "extends: run.yaml\ndebug: {enabled: 1}\n",
}


def told(path: Path) -> str:
    """What the author of a file is told, indented, without the folder it lies in."""
    try:
        load_config(path)
    except ConfigError as error:
        lines = [str(problem).replace(f"{path.parent}/", "") for problem in error.problems]
        return "\n".join(f"  {line}" for line in lines)
    return "  loads"


@pytest.mark.invariant("CONFIG-007")
@pytest.mark.parametrize("topic", TOPICS)
def test_the_texts_of_the_cases_are_as_reviewed(tmp_path, topic, snapshot):
    rows = json.loads(Path(f"fixtures/config/{topic}.json").read_text(encoding="utf-8"))["cases"]
    texts = []
    for row in rows:
        path = write(tmp_path, with_values(DOCUMENTS[row["input"]["document"]], row["input"]["values"]))
        texts.append(f"{row['description']}:\n{told(path)}")
    assert "\n".join(texts) == snapshot


@pytest.mark.invariant("CONFIG-003")
def test_the_texts_about_single_values_are_as_reviewed(tmp_path, snapshot):
    texts = [f"{key}: {value!r}:\n{told(write(tmp_path, with_values(STAGE1, {key: value})))}" for key, value in VALUES]
    assert "\n".join(texts) == snapshot


@pytest.mark.invariant("CONFIG-007")
def test_the_texts_about_values_that_do_not_go_together_are_as_reviewed(tmp_path, snapshot):
    texts = [f"{why}:\n{told(write(tmp_path, with_values(DOCUMENTS[name], values)))}" for why, name, values in PAIRS]
    assert "\n".join(texts) == snapshot


@pytest.mark.invariant("CONFIG-001")
def test_the_texts_about_what_is_no_plain_yaml_are_as_reviewed(tmp_path, snapshot):
    texts = []
    for why, text in FILES.items():
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        lines = [line for line in told(path).splitlines() if "required and missing" not in line]
        texts.append("\n".join([f"{why}:", *lines]))
    assert "\n".join(texts) == snapshot
