"""vLLM opens each whole folder of a run with coord offsets, saved or exported, and answers as transformers does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coordexp.encode.prompts import render_prompt
from coordexp.encode.whole_model import check_whole_model
from coordexp.entrypoints.export import main as export
from tests.plugins.exported import Trained
from tests.plugins.folder_readers import transformers_answers, vllm_answers

pytestmark = [pytest.mark.server, pytest.mark.timeout(400), pytest.mark.xdist_group("exported_folder")]
TEXT = render_prompt("desc_first", "sorted").user


@pytest.mark.invariant("BRIDGE-016")
def test_vllm_answers_from_a_whole_folder_as_transformers_does(
    trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    """A tied and an untied one as training saves them, and one that was exported from an adapter and its offsets."""
    folders = [trained("full-offsets").final, trained("full-own-head").final, tmp_path / "whole"]
    assert export([str(trained("dora-own-head").run), "--out", str(folders[-1])]) == 0
    assert [check_whole_model(folder).tied for folder in folders] == [True, False, False]
    pictures = sorted(trained("full-offsets").pictures[0].parent.glob("*.png"))[:14]
    found = vllm_answers(folders, pictures, TEXT, tmp_path / "engine")
    for folder, answers in zip(folders, found, strict=True):
        assert answers == transformers_answers(folder, pictures, TEXT), folder
        assert len({tuple(answer) for answer in answers}) > len(answers) // 2, "answers are about the pictures"
    assert found[0] != found[1] != found[2], "three models"
