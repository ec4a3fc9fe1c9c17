"""Miniature runs, built and not trained, in which each key of the configuration is followed to what acts on it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from coordexp.config import load_config
from coordexp.training.types import StepRecords
from tests.plugins.stage1 import SHIPPED
from tests.plugins.stage2 import Scripted

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordexp.config import Config
    from coordexp.rollout.types import Decoding
    from tests.plugins.stage1 import Stage1Kit

CONSTANT = {
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": {"min_lr": None},
    "warmup_ratio": 0.0,
}
# Stage 2 reads none of the weights that the shipped file has for stage 1.
WITHOUT_STAGE1 = {"desc_ce_weight": 1.0, "bbox_geo": None, "coord_soft_ce_w1": None}
ALIGNED = {"trainer_variant": "stage2_rollout_aligned", **WITHOUT_STAGE1}
TWO_CHANNEL = {"trainer_variant": "stage2_two_channel", **WITHOUT_STAGE1}
AUTHORED = {
    "objective": [
        {"name": "coord_reg", "channels": ["B"], "config": {"w1_weight": 0.6}},
        {"name": "token_ce", "weight": 0.4, "config": {"rollout_fn_desc_weight": 3.0}},
    ],
    "diagnostics": [{"name": "coord_diag", "enabled": False}],
}
# What each miniature writes, beside paths. No value that a row of the table follows is its key's default.
BUILDS: dict[str, dict[str, Any]] = {
    "packed": {
        "global_max_length": 400,
        "model": {"attn_impl": "eager"},
        "template": {"max_pixels": 50000},
        "data": {"dataset_num_proc": 3},
        "training": {
            "add_version": True,
            "seed": 29,
            "num_train_epochs": 2.5,
            "max_steps": 11,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 3,
            "effective_batch_size": 6,
            "learning_rate": 2e-3,
            "vit_lr": 3e-3,
            "aligner_lr": 4e-3,
            "weight_decay": 0.03,
            "adam_beta1": 0.81,
            "adam_beta2": 0.82,
            "adam_epsilon": 1e-6,
            "max_grad_norm": 0.7,
            "lr_scheduler_type": "cosine_warmup_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr": 1e-4},
            "warmup_ratio": 0.3,
            "bf16": True,
            "gradient_checkpointing": True,
            "packing": True,
            "eval_packing": True,
            "eval_strategy": "steps",
            "eval_steps": 7,
            "save_strategy": "best",
            "save_steps": 13,
            "save_total_limit": 4,
            "save_delay_steps": 5,
            "metric_for_best_model": "loss/desc_ce",
            "greater_is_better": False,
            "logging_steps": 6,
            "logging_first_step": False,
            "report_to": [],
        },
        "custom": {
            "train_sample_limit": 9,
            "val_sample_limit": 2,
            "object_ordering": "random",
            "object_field_order": "geometry_first",
            "desc_ce_weight": 3.0,
            "coord_soft_ce_w1": {
                "enabled": True,
                "ce_weight": 0.11,
                "soft_ce_weight": 0.12,
                "w1_weight": 0.13,
                "gate_weight": 0.14,
                "text_gate_weight": 0.15,
                "temperature": 1.6,
                "target_sigma": 3.5,
                "target_truncate": 9,
            },
            "bbox_geo": {"enabled": True, "smoothl1_weight": 0.21, "ciou_weight": 0.22},
            "dump_conversation_text": True,
        },
    },
    "workers": {
        "model": {"torch_dtype": "bfloat16"},
        "data": {
            "dataloader_num_workers": 2,
            "dataloader_prefetch_factor": 3,
            "dataloader_persistent_workers": True,
            "dataloader_pin_memory": True,
        },
        "tuner": {"tuner_type": "lora", "target_modules": ["v_proj"], "modules_to_save": ["visual.merger.norm"]},
        "training": {
            **CONSTANT,
            "lr_scheduler_type": "constant_with_warmup",
            "packing": False,
            "effective_batch_size": None,
            "gradient_accumulation_steps": 4,
            "per_device_train_batch_size": 3,
            "warmup_steps": 5,
            "save_strategy": "steps",
            "save_steps": 13,
        },
        "custom": {
            "train_sample_limit": 21,
            "sample_with_replacement": True,
            "val_sample_limit": 5,
            "val_sample_with_replacement": True,
            "coord_offset": {
                "enabled": True,
                "tie_head": False,
                "embed_lr": 5e-3,
                "head_lr": 6e-3,
                "weight_decay": 0.05,
                "dtype": "bfloat16",
            },
        },
    },
    "adapter": {
        "tuner": {
            "tuner_type": "lora",
            "target_regex": r".*\.self_attn\.q_proj",
            "lora_rank": 3,
            "lora_alpha": 5.0,
            "lora_dropout": 0.25,
            "use_dora": True,
        },
        "training": {**CONSTANT, "save_strategy": "epoch", "eval_strategy": "epoch"},
    },
    "biases": {
        "global_max_length": 1200,
        "tuner": {"tuner_type": "lora", "lora_bias": "all"},
        "training": CONSTANT,
        "custom": {"prompt_variant": "coco_80"},
    },
    "frozen": {"tuner": {"freeze_vit": True, "freeze_aligner": True}, "training": CONSTANT},
    "frozen_text": {"tuner": {"freeze_llm": True}, "training": CONSTANT, "custom": {"val_jsonl": None}},
    "debugged": {
        "training": CONSTANT,
        "debug": {"enabled": True, "train_sample_limit": 4, "val_sample_limit": 1},
    },
    "answers": {
        "global_max_length": 700,
        "training": {
            **CONSTANT,
            "seed": 31,
            "packing": True,
            "effective_batch_size": 5,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 3,
        },
        "custom": {
            **ALIGNED,
            "coord_soft_ce_w1": {
                "enabled": True,
                "ce_weight": 0.11,
                "soft_ce_weight": 0.12,
                "w1_weight": 0.13,
                "gate_weight": 0.14,
                "text_gate_weight": 0.15,
                "temperature": 1.6,
                "target_sigma": 3.5,
                "target_truncate": 9,
            },
        },
        "rollout_matching": {
            "decode_batch_size": 3,
            "max_new_tokens": 70,
            "decoding": {"temperature": 0.7, "top_p": 0.9, "top_k": 11},
            "repetition_penalty": 1.2,
            "candidate_top_k": 4,
            "maskiou_gate": 0.45,
            "maskiou_resolution": 128,
            "fp_cost": 0.6,
            "fn_cost": 1.5,
            "eval_detection": {"enabled": False, "score_mode": "confidence"},
            "monitor_dump": {
                "enabled": True,
                "every_steps": 3,
                "max_events": 4,
                "max_samples": 5,
                "max_text_chars": 66,
            },
        },
    },
    "answers_authored": {
        "training": CONSTANT,
        "custom": ALIGNED,
        "rollout_matching": {
            "max_new_tokens": 70,
            "coord_decode_mode": "st",
            "eval_detection": {"constant_score": 0.25},
            "pipeline": AUTHORED,
        },
    },
    "channels": {
        "training": CONSTANT,
        "custom": {
            **TWO_CHANNEL,
            "coord_soft_ce_w1": {
                "enabled": True,
                "soft_ce_weight": 0.12,
                "w1_weight": 0.13,
                "temperature": 1.6,
                "target_sigma": 3.5,
                "target_truncate": 9,
            },
        },
        "stage2_ab": {
            "schedule": {"b_ratio": 1.0},
            "coord_decode_mode": "st",
            "desc_ce_weight": 2.1,
            "bbox_smoothl1_weight": 2.2,
            "bbox_ciou_weight": 2.3,
            "coord_ce_weight": 0.31,
            "coord_el1_weight": 0.32,
            "coord_ehuber_weight": 0.33,
            "coord_entropy_weight": 0.34,
            "coord_gate_weight": 0.35,
            "text_gate_weight": 0.36,
            "channel_b": {"drop_invalid_struct_ce_multiplier": 2.5},
        },
        "rollout_matching": {"max_new_tokens": 70},
    },
    "channels_authored": {
        "training": CONSTANT,
        "custom": TWO_CHANNEL,
        "stage2_ab": {"schedule": {"b_ratio": 1.0}, "pipeline": AUTHORED},
        "rollout_matching": {"max_new_tokens": 70},
    },
}


@dataclass(frozen=True)
class Built:
    """A run before its first step: its config, the trainer with its parts, and the folder that it was written into."""

    config: Config
    trainer: Any
    folder: Path
    precision: str
    """Of autocast, read when it was built: accelerate keeps one for the whole process, that of the last build."""

    @property
    def parts(self) -> Any:
        return self.trainer.parts

    @property
    def phase(self) -> Any:
        """What makes the plan of a step on rollouts."""
        return self.parts.plans.make.__self__

    @cached_property
    def asked(self) -> tuple[Decoding, Decoding]:
        """How answers are asked for: in a step of training, and in an evaluation."""
        stop = self.encoder.turn.end
        backend, own = Scripted(lambda sample: [stop], stop), self.phase.backend
        self.phase.backend = self.parts.rollouts.backend = backend
        try:
            self.phase.plan(StepRecords(0, 0, (self.parts.dataset[0],)))
            self.parts.rollouts.evaluate(0)
        finally:
            self.phase.backend = self.parts.rollouts.backend = own
        (_, training), (_, evaluation) = backend.asked
        return training, evaluation

    @property
    def args(self) -> Any:
        """transformers' arguments, as the loop reads them."""
        return self.trainer.args

    @property
    def encoder(self) -> Any:
        return self.parts.run.encoder

    @property
    def run_folder(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.run_folder / "run_manifest.json").read_text(encoding="utf-8"))

    @property
    def peft(self) -> Any:
        """peft's configuration of the adapter."""
        return self.trainer.model.peft_config["default"]

    def module(self, name: str) -> Any:
        """Config of an objective module as the run computes it."""
        return next(entry.config for entry in self.parts.run.objective.manifest.objective if entry.name == name)

    def callback(self, name: str) -> Any:
        return next(c for c in self.trainer.callback_handler.callbacks if type(c).__name__ == name)

    def optimizer(self) -> Any:
        return self.trainer.optimizer or self.trainer.create_optimizer()

    def group(self, *parts: str) -> dict[str, Any]:
        """The optimizer's group of the first trained matrix whose name has all `parts`."""
        optimizer = self.optimizer()
        chosen = next(
            p for n, p in self.trainer.model.named_parameters() if all(x in n for x in parts) and p.requires_grad
        )
        return next(g for g in optimizer.param_groups if any(p is chosen for p in g["params"]))

    def rates(self, steps: int) -> list[float]:
        """Learning rate of the language model at each of `steps` steps."""
        group = self.group("language_model", "proj")
        self.trainer.lr_scheduler = None
        scheduler = self.trainer.create_scheduler(steps, self.optimizer())
        found = []
        for _ in range(steps):
            found.append(group["lr"])
            scheduler.step()
        return found

    def trained(self) -> set[str]:
        """Parts of the model with a parameter that is trained."""
        names = [name for name, p in self.trainer.model.named_parameters() if p.requires_grad]
        return {
            "aligner" if "merger" in name else "vit" if "visual" in name else "llm"
            for name in names
            if "coord_offset" not in name
        }

    def stored(self, part: Any) -> list[str]:
        """File names of the records that `part` (plans or validation) reads, in order."""
        return [Path(part.dataset.record(index).source).name for index in range(len(part.dataset))]


def document_of(kit: Stage1Kit, name: str, folder: Path) -> dict[str, Any]:
    """The YAML of a miniature."""
    base: dict[str, Any] = {
        "model": {"model": str(kit.checkpoint)},
        "training": {
            "output_dir": str(folder / "run"),
            "logging_dir": str(folder / "tb"),
            "run_name": f"followed-{name}",
            "max_steps": 2,
            "save_strategy": "no",
            "effective_batch_size": 2,
        },
        "custom": {"train_jsonl": str(kit.train), "val_jsonl": str(kit.val)},
    }
    own = BUILDS[name]
    merged = {key: base.get(key, {}) | own[key] if isinstance(own.get(key), dict) else own.get(key, base.get(key))
              for key in base | own}  # fmt: skip
    if name == "packed":
        merged["custom"]["dump_conversation_path"] = str(folder / "first.txt")
    if name == "workers":
        first, last = kit.coord_range()
        merged["custom"]["coord_offset"] = own["custom"]["coord_offset"] | {"ids": {"start": first, "end": last}}
    if name == "frozen_text":
        shutil.copytree(kit.train.parent / "images", folder / "elsewhere/images")
        merged["custom"]["image_root"] = str(folder / "elsewhere")
    if name == "debugged":
        merged["debug"] = own["debug"] | {"output_dir": str(folder / "debugged")}
    return {"extends": str(SHIPPED), "global_max_length": 512, **merged}


@pytest.fixture(scope="session")
def built_run(stage1_kit: Stage1Kit, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Build a miniature of BUILDS, once a session each."""
    done: dict[str, Built] = {}

    def build(name: str) -> Built:
        from coordexp.training.stage1 import build_stage1
        from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned
        from coordexp.training.stage2_two_channel import build_stage2_two_channel

        builders = {
            "stage1": build_stage1,
            "stage2_two_channel": build_stage2_two_channel,
            "stage2_rollout_aligned": build_stage2_rollout_aligned,
        }
        if name not in done:
            folder = tmp_path_factory.mktemp(f"followed-{name}")
            path = folder / "config.yaml"
            path.write_text(yaml.safe_dump(document_of(stage1_kit, name, folder)), encoding="utf-8")
            config = load_config(path)
            trainer = builders[config.custom.trainer_variant](config)
            done[name] = Built(config, trainer, folder, trainer.accelerator.mixed_precision)
        return done[name]

    return build
