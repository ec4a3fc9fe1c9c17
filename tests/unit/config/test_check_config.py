"""The command line: a line a problem, never a traceback, and the run's identity when all is well."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from coordexp.config import load_config
from coordexp.entrypoints.check_config import main
from tests.unit.config.minimal import ALIGNED, STAGE1, with_values, write


@pytest.mark.invariant("CONFIG-021")
def test_a_good_file_is_one_line_with_its_identity(tmp_path, capsys):
    path = write(tmp_path, STAGE1)
    assert main([str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: OK run_name=run output_dir=out logging_dir=tb trainer_variant=stage1\n"
    assert err == ""


@pytest.mark.invariant("CONFIG-021")
def test_a_terminal_without_the_letters_of_a_name_is_no_obstacle(tmp_path):
    good = write(tmp_path, with_values(STAGE1, {"training.run_name": "läuf"}), "good.yaml")
    bad = write(tmp_path, with_values(STAGE1, {"training.läuf": 1}), "bad.yaml")
    command = [sys.executable, "-m", "coordexp.entrypoints.check_config", str(good), str(bad)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "run_name=l\\xe4uf " in done.stdout and "training.l\\xe4uf: unknown key" in done.stderr
    assert "Traceback" not in done.stderr and done.returncode == 1


@pytest.mark.invariant("CONFIG-021")
def test_each_problem_of_each_file_is_one_line_on_stderr(tmp_path, capsys):
    document = with_values(STAGE1, {"training.save_safetensors": True, "tuner.train_type": "lora", "custom.a\nb": 1})
    bad, good = write(tmp_path, document, "bad.yaml"), write(tmp_path, STAGE1, "good.yaml")
    assert main([str(bad), str(good), str(tmp_path / "gone.yaml")]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{good}: OK ")
    lines = err.splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "training.save_safetensors", 'custom."a\\nb"', "tuner.train_type", "cannot be read",
    ]  # fmt: skip


@pytest.mark.invariant("CONFIG-021")
def test_resolved_prints_json_that_loads_to_an_equal_config(tmp_path, capsys):
    path = write(tmp_path, STAGE1)
    assert main([str(path), "--resolved"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["training"]["run_name"] == "run"
    again = tmp_path / "resolved.json"
    again.write_text(out)
    assert load_config(again) == load_config(path)


@pytest.mark.invariant("CONFIG-021")
@pytest.mark.parametrize(("ranks", "status"), [(2, 0), (3, 1)])
def test_world_size_checks_that_batches_divide(tmp_path, capsys, ranks, status):
    path = write(tmp_path, with_values(STAGE1, {"training.effective_batch_size": 8}))
    assert main([str(path), "--world-size", str(ranks)]) == status
    assert ("no multiple" in capsys.readouterr().err) == bool(status)


@pytest.mark.invariant("CONFIG-028")
@pytest.mark.parametrize(("ranks", "status"), [(4, 0), (3, 1)])
def test_world_size_checks_that_the_records_of_a_step_divide(tmp_path, capsys, ranks, status):
    path = write(tmp_path, with_values(ALIGNED, {"training.per_device_train_batch_size": 3}))
    assert main([str(path), "--world-size", str(ranks)]) == status
    assert ("the 8 records of a step do not divide over 3 ranks" in capsys.readouterr().err) == bool(status)


@pytest.mark.invariant("CONFIG-026")
def test_a_warning_is_a_line_on_stderr_and_no_failure(tmp_path, capsys):
    path = write(tmp_path, with_values(STAGE1, {"model.torch_dtype": "bfloat16"}))
    assert main([str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{path}: OK run_name=run ")
    assert err.startswith(f"warning: {path}:3: model.torch_dtype: full tuning of bfloat16 weights loses every update")
    assert err.count("\n") == 1


@pytest.mark.invariant("CONFIG-025")
def test_float16_weights_are_refused_for_training_and_load_for_evaluation(tmp_path, capsys):
    path = write(tmp_path, with_values(STAGE1, {"model.torch_dtype": "float16"}))
    assert load_config(path).model.torch_dtype == "float16"
    assert main([str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"{path}:3: model.torch_dtype: float16 weights overflow")


@pytest.mark.parametrize("arguments", [[], ["a", "b", "--resolved"], ["a", "--world-size", "0"], ["a", "--zzz"]])
def test_a_wrong_command_line_is_refused_with_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: " in capsys.readouterr().err


@pytest.mark.invariant("CONFIG-021")
@pytest.mark.invariant("CONFIG-022")
def test_the_command_runs_as_a_module_and_imports_nothing_heavy(tmp_path):
    path = write(tmp_path, with_values(STAGE1, {"debug.enable": True}))
    code = (
        "import sys; from coordexp.entrypoints.check_config import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'swift', 'vllm', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"{path}:16: debug.enable: unknown key; did you mean enabled? "
        "allowed: enabled, output_dir, train_sample_limit, val_sample_limit\n"
    )
    assert done.stdout == ""
