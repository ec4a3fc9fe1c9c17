"""The quick start's short form through its command, in miniature: what it says, what it writes, its exit code."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordexp.entrypoints.quickstart import build_parser, main
from tests.plugins.demo import STAGE1, STAGE2
from tests.plugins.launches import ROOT

if TYPE_CHECKING:
    from tests.plugins.demo import DemoKit


def test_the_shipped_configs_are_the_default() -> None:
    arguments = build_parser().parse_args([])
    assert (arguments.config, arguments.stage2_config, arguments.stage1_only) == (STAGE1, STAGE2, False)


def test_the_script_hands_its_arguments_on() -> None:
    assert (ROOT / "scripts/quickstart.sh").read_text(encoding="utf-8").rstrip().endswith('quickstart "$@"')


@pytest.mark.invariant("EVAL-035")
@pytest.mark.parametrize(("rate", "steps"), [(1.5e-3, 10), (1e-5, 1)], ids=["improved", "not improved"])
def test_the_short_form_starts_no_server_and_its_exit_code_is_its_verdict(
    demo_kit: DemoKit, tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: float, steps: int
) -> None:
    rates: dict[str, float] = dict.fromkeys(("learning_rate", "vit_lr", "aligner_lr"), rate)
    config = demo_kit.write(
        tmp_path / "stage1", STAGE1, training={"max_steps": steps, "effective_batch_size": 4} | rates
    )
    code = main(["--config", str(config), "--stage1-only"])
    told = capsys.readouterr()
    improved = steps > 1
    assert code == (0 if improved else 1), told.out[-2000:]
    assert ("NOT improved" in told.out) is not improved
    assert told.err.rstrip().endswith("NOT improved") is not improved
    assert "4/4  " in told.out and "server" not in told.out and "crowded" not in told.out
    assert told.out.count("took ") == 5, "each part, and all"
    for line in told.out.splitlines():
        if line.startswith("gallery  "):
            assert Path(line.partition(": ")[2]).is_file()


def test_an_unknown_flag_is_refused_by_name() -> None:
    done = subprocess.run(
        [str(ROOT / ".venv/bin/python"), "-m", "coordexp.entrypoints.quickstart", "--stage2-only"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "--stage2-only" in done.stderr
