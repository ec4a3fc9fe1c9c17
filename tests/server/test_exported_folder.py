"""vLLM opens what a run with coord offsets exports, and answers as transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordexp.config import load_config
from coordexp.encode.prompts import render_prompt
from coordexp.entrypoints.export import main as export
from tests.plugins.folder_readers import transformers_answers, vllm_answers
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(400), pytest.mark.xdist_group("exported_folder")]
TEXT = render_prompt("desc_first", "sorted").user


@pytest.mark.invariant("BRIDGE-016")
def test_vllm_answers_from_an_exported_folder_as_transformers_does(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    from coordexp.training.stage1 import run_stage1

    path = stage1_kit.write(
        "exported_to_vllm",
        model={"model": str(EARLY)},
        tuner={"tuner_type": "lora", "lora_rank": 4},
        custom={"coord_offset": {"enabled": True, "tie_head": False, "embed_lr": 0.02, "head_lr": 0.02}},
    )
    out = tmp_path / "whole"
    assert export([str(run_stage1(load_config(path)).checkpoint), "--out", str(out)]) == 0
    pictures = sorted((stage1_kit.train.parent / "images").glob("*.png"))[:14]
    (found,) = vllm_answers([out], pictures, TEXT, tmp_path / "engine")
    assert found == transformers_answers(out, pictures, TEXT)
    assert len({tuple(answer) for answer in found}) > len(found) // 2, "answers are about the pictures"
