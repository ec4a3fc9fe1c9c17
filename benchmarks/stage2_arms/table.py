"""The arms: a name in, the configuration of one run out, as a mapping that extends a shipped leaf.

What equals what, so that a difference between two arms is the channel's (held by test_stage2_arms.py of the tests):

- Schedule, rate, weight decay and clipping are `COMMON`, whatever the leaves say: they differ in weight decay (.1 and
  0), clipping (.5 and 1) and the end of the schedule. Optimizer, data type, images and row length are alike in both.
- Objective of stage 1 and of Channel A with one forward: names 10 (`custom.desc_ce_weight` and
  `stage2_ab.desc_ce_weight`), structure and end token 1, boxes 5 SmoothL1 and no CIoU, soft CE, W1 and coord gate 1,
  sigma 8. Two-channel's `fmt_struct_ce_weight` (.1 unless written) would weigh structure once more, in the self
  context; it is 0 here. Then a step of Channel A is stage 1's on those records (TRAIN-036), and `stage1_steps` is
  stage 1.
- Channel B has the same weights: structure 1 (matched, missed, closure), names of missed objects 10, boxes and
  coordinates as above on matched and missed objects.
- Records a step: `RECORDS` in two-channel training. Stage 1 counts rows: 2 rows of 1,024 tokens hold 9.3 records of
  the mixed scenes on average.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAGE1 = "configs/stage1/ablation/crowded.yaml"
TWO_CHANNEL = "configs/stage2_two_channel/ablation/crowded.yaml"
RECORDS = 9
ROWS = 2
RATE = 5.0e-4
CYCLE = 20
"""Steps that a calibration measures: whole periods of every `b_ratio` below."""

COMMON: dict[str, dict[str, Any]] = {
    "training": {
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"min_lr": None},
        "warmup_ratio": 0.05,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_first_step": True,
        "report_to": [],
        "add_version": False,
    },
}
ONE_FORWARD: dict[str, dict[str, Any]] = {
    "training": {"effective_batch_size": RECORDS},
    "stage2_ab": {"n_softctx_iter": 1, "fmt_struct_ce_weight": 0.0, "schedule": {"b_ratio": 0.25}},
    "rollout_matching": {"decode_batch_size": RECORDS, "max_new_tokens": 256, "decoding": {"temperature": 0.0}},
}


@dataclass(frozen=True, slots=True)
class Arm:
    """A shipped leaf, the rate, and what else is its own.

    `steps_of` names the arm whose number of steps it takes instead of one from its own cost. `modules` changes the
    authored form of the objective: module name → what to write into its entry; keys of `config` are added to it.
    """

    about: str
    base: str = TWO_CHANNEL
    rate: float = RATE
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps_of: str | None = None
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """Everything that is written besides what a run is given: the common part, the variant's, its own."""
        written = COMMON if self.base == STAGE1 else merged(COMMON, ONE_FORWARD)
        rates = dict.fromkeys(("learning_rate", "vit_lr", "aligner_lr"), self.rate)
        return merged(merged(written, {"training": rates}), self.own)


def _share(b_ratio: float) -> dict[str, dict[str, Any]]:
    return {"stage2_ab": {"schedule": {"b_ratio": b_ratio}}}


ONLY_IN_A = {"channels": ["A"]}
ARMS: dict[str, Arm] = {
    "stage1": Arm("ground truth alone, for the same seconds", STAGE1, own={"training": {"effective_batch_size": ROWS}}),
    "stage1_lowlr": Arm("stage1 at 2e-4", STAGE1, 2.0e-4, own={"training": {"effective_batch_size": ROWS}}),
    "stage1_highlr": Arm("stage1 at 1e-3", STAGE1, 1.0e-3, own={"training": {"effective_batch_size": ROWS}}),
    "mix25": Arm("every fourth step on rollouts"),
    # The same records in the same steps as mix25's of the same seed; every step on ground truth.
    "stage1_steps": Arm("ground truth alone, for the same records as mix25", own=_share(0.0), steps_of="mix25"),
    "mix10": Arm("every tenth step on rollouts", own=_share(0.1)),
    "mix50": Arm("every second step on rollouts", own=_share(0.5)),
    "mix25_n2": Arm("mix25, Channel A reads its own coordinates once", own={"stage2_ab": {"n_softctx_iter": 2}}),
    "mix25_t07": Arm("mix25, sampled at temperature .7", own={"rollout_matching": {"decoding": {"temperature": 0.7}}}),
    "mix25_lowlr": Arm("mix25 at 2e-4", rate=2.0e-4),
    "mix25_highlr": Arm("mix25 at 1e-3", rate=1.0e-3),
    "mix25_gate50": Arm("mix25, pairs match from mask IoU .5 on", own={"rollout_matching": {"maskiou_gate": 0.5}}),
    "mix25_text": Arm("mix25, rollouts teach text alone", modules={"bbox_geo": ONLY_IN_A, "coord_reg": ONLY_IN_A}),
    "mix25_coords": Arm("mix25, rollouts teach coordinates and boxes alone", modules={"token_ce": ONLY_IN_A}),
    "mix25_prefix0": Arm(
        "mix25, no structure of matched objects",
        modules={"token_ce": {"config": {"rollout_matched_prefix_struct_weight": 0.0}}},
    ),
}


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both, key by key; `above` wins. Neither is changed."""
    out = copy.deepcopy(below)
    for key, value in above.items():
        inner = out.get(key)
        out[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else copy.deepcopy(value)
    return out


def write_pipeline(document: dict[str, Any], arm: Arm, resolved: dict[str, Any]) -> dict[str, Any]:
    """`document` with its objective written out, as `resolved` has it and the arm's `modules` change it.

    Flat weights and `custom.coord_soft_ce_w1` go: beside an authored pipeline they are refused. What the leaf writes
    goes by a null, what the document itself writes by being left out.
    """
    document = copy.deepcopy(document)
    document["stage2_ab"].pop("fmt_struct_ce_weight")
    objective = [merged(entry, arm.modules.get(entry["name"], {})) for entry in resolved["objective"]]
    flat = ("desc_ce_weight", "bbox_smoothl1_weight", "bbox_ciou_weight", "coord_gate_weight")
    pipeline = {"objective": objective, "diagnostics": resolved["diagnostics"]}
    gone = {"stage2_ab": dict.fromkeys(flat) | {"pipeline": pipeline}, "custom": {"coord_soft_ce_w1": None}}
    return merged(document, gone)
