"""What the miniatures of `tests/plugins/receivers.py` write into their YAML, beside paths."""

from __future__ import annotations

from typing import Any

CONSTANT = {
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": {"min_lr": None},
    "warmup_ratio": 0.0,
}
# Stage 2 reads none of the weights that the shipped file has for stage 1.
WITHOUT_STAGE1 = {"desc_ce_weight": 1.0, "bbox_geo": None, "coord_soft_ce_w1": None}
ALIGNED = {"trainer_variant": "stage2_rollout_aligned", **WITHOUT_STAGE1}
TWO_CHANNEL = {"trainer_variant": "stage2_two_channel", **WITHOUT_STAGE1}
DISTRIBUTION = {
    "enabled": True,
    "soft_ce_weight": 0.12,
    "w1_weight": 0.13,
    "temperature": 1.6,
    "target_sigma": 3.5,
    "target_truncate": 9,
}
AUTHORED = {
    "objective": [
        {"name": "coord_reg", "channels": ["B"], "config": {"w1_weight": 0.6}},
        {"name": "token_ce", "weight": 0.4, "config": {"rollout_fn_desc_weight": 3.0}},
    ],
    "diagnostics": [{"name": "coord_diag", "enabled": False}],
}
# No value that a row of the table follows is its key's default.
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
            "coord_soft_ce_w1": {**DISTRIBUTION, "ce_weight": 0.11, "gate_weight": 0.14, "text_gate_weight": 0.15},
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
            "coord_soft_ce_w1": {**DISTRIBUTION, "ce_weight": 0.11, "gate_weight": 0.14, "text_gate_weight": 0.15},
        },
        "rollout_matching": {
            "decode_batch_size": 7,
            "max_new_tokens": 70,
            "decoding": {"temperature": 0.7, "top_p": 0.9, "top_k": 11, "grammar": True},
            "repetition_penalty": 1.2,
            "repeat_terminate": {
                "enabled": True,
                "min_new_tokens": 31,
                "max_consecutive_token_repeats": 41,
                "ngram_size": 7,
                "ngram_repeats": 6,
                "max_object_keys": 53,
            },
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
    "served": {
        "training": CONSTANT,
        "custom": ALIGNED,
        "rollout_matching": {
            "rollout_backend": "vllm",
            "max_new_tokens": 70,
            "decode_batch_size": 3,
            "repeat_terminate": {"enabled": True, "max_object_keys": 9},
            "vllm": {
                "max_model_len": 900,
                "enable_prefix_caching": False,
                # The servers are put in by `receivers.document_of`: they listen where the machine has a port.
                "server": {"timeout_s": 2.5, "infer_timeout_s": 7.5},
            },
        },
    },
    "engine": {
        "model": {"torch_dtype": "bfloat16"},
        "template": {"max_pixels": 50000},
        "training": CONSTANT,
        "custom": ALIGNED,
        "rollout_matching": {
            "rollout_backend": "vllm",
            "max_new_tokens": 70,
            "decode_batch_size": 3,
            "vllm": {
                "mode": "colocate",
                "max_model_len": 900,
                "enable_prefix_caching": False,
                "colocate": {"gpu_memory_utilization": 0.37, "enforce_eager": False},
            },
        },
    },
    "channels": {
        "training": CONSTANT,
        "custom": {
            **TWO_CHANNEL,
            "coord_soft_ce_w1": DISTRIBUTION,
        },
        "stage2_ab": {
            "schedule": {"b_ratio": 0.4},
            "n_softctx_iter": 3,
            "softctx_grad_mode": "em_detach",
            "coord_ctx_embed_mode": "soft",
            "fmt_struct_ce_weight": 0.37,
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
