"""scripts/train_stage2.sh up to the start of a process: variables and a YAML in, one checked line of JSON out."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordexp.config import ConfigError, load_config
from coordexp.data.paths import ImagePathError
from coordexp.entrypoints.launch_stage2 import main
from coordexp.spec import check
from coordexp.training.launch import LaunchError
from coordexp.training.server_connect import server_section
from coordexp.training.stage2_launch import Machine, build_stage2_launch, check_ports, preflight_document
from tests.plugins.launches import ROOT, free_ports

CPU, FOUR = Machine(gpu_driver=False, gpu_count=None), Machine(gpu_driver=True, gpu_count=4)
GPUS = {"server_gpus": "0,1", "train_gpus": "2"}
SERVED = (
    *sorted((ROOT / "configs/stage2_two_channel/smoke").glob("[ab]_*d*.yaml")),
    ROOT / "configs/stage2_two_channel/smoke/b_only.yaml",
    ROOT / "configs/stage2_rollout_aligned/smoke/server.yaml",
)


def plan(config: Path, machine: Machine = CPU, **variables: str) -> dict[str, Any]:
    """The preflight document of a launch."""
    return preflight_document(build_stage2_launch({"config": str(config), **variables}, machine))


def servers(*urls: str) -> dict[str, Any]:
    """A section that names servers, with free group ports."""
    rows = [{"base_url": url, "group_port": port} for url, port in zip(urls, free_ports(len(urls)), strict=True)]
    return {"vllm": {"server": {"servers": rows}}}


def flag(document: dict[str, Any], name: str) -> str:
    flags: list[str] = document["server_flags"]
    return flags[flags.index(name) + 1]


@pytest.mark.invariant("TRAIN-041")
def test_on_a_cpu_the_plan_is_one_server_and_one_learner_without_devices(launch_config):
    config = launch_config()
    launch = build_stage2_launch({"config": str(config)}, CPU)
    document = preflight_document(launch)
    assert (document["rollout_backend"], document["vllm_mode"]) == ("vllm", "server")
    assert (document["server_devices"], document["learner_devices"]) == ([], [])
    assert document["learner_command"] == [sys.executable, "-m", "coordexp.entrypoints.train", "--config", str(config)]
    assert launch.learner.environment == {"CUDA_VISIBLE_DEVICES": ""}
    assert document["model"] == str(ROOT / "fixtures/tiny-qwen3vl")
    assert document["jsonl"] == dict.fromkeys(("train", "val"), str(config.parent / "records.jsonl"))
    assert document["root_image_dir"] == dict.fromkeys(("train", "val"), str(config.parent))
    assert document["max_model_len"] == 1024 == int(flag(document, "--vllm_max_model_len"))
    (url,) = document["server_base_urls"]
    assert url == f"http://{flag(document, '--host')}:{flag(document, '--port')}"
    assert (flag(document, "--vllm_gpu_memory_utilization"), flag(document, "--vllm_enforce_eager")) == ("0.2", "true")


@pytest.mark.invariant("TRAIN-042")
@pytest.mark.parametrize(
    ("variables", "copies"),
    [({}, ("1", "2", "8")), ({"server_tp": "2"}, ("2", "1", "16")), ({"server_tp": "1"}, ("1", "2", "8"))],
)
def test_parallel_sizes_are_derived_from_the_server_s_devices(launch_config, variables, copies):
    document = plan(launch_config(), FOUR, **GPUS, **variables)
    names = ("--vllm_tensor_parallel_size", "--vllm_data_parallel_size", "--vllm_max_num_seqs")
    assert tuple(flag(document, name) for name in names) == copies
    assert (document["server_devices"], document["learner_devices"]) == ([0, 1], [2])
    used = tuple(flag(document, name) for name in ("--vllm_gpu_memory_utilization", "--vllm_enforce_eager"))
    assert used == ("0.85", "false")


@pytest.mark.invariant("TRAIN-042")
def test_several_learner_devices_are_a_torchrun_group(launch_config):
    launch = build_stage2_launch({"config": str(launch_config()), "server_gpus": "3", "train_gpus": "0,2"}, FOUR)
    assert "torch.distributed.run" in launch.learner.command
    assert launch.learner.environment == {"CUDA_VISIBLE_DEVICES": "0,2"}


@pytest.mark.invariant("TRAIN-042")
@pytest.mark.parametrize(
    ("machine", "variables", "words"),
    [
        (CPU, GPUS, "there is no NVIDIA driver; leave both unset for the CPU"),
        (CPU, {"gpus": "0"}, "gpus is of scripts/train.sh; name both sets of devices"),
        (FOUR, {}, "server_gpus is not set; server and learner need devices of their own"),
        (FOUR, {"server_gpus": "0"}, "train_gpus is not set; .*With one GPU write .*mode: colocate"),
        (FOUR, {"server_gpus": "0,1", "train_gpus": "1,2"}, "device 1 stands in server_gpus and in train_gpus"),
        (FOUR, {"server_gpus": "4", "train_gpus": "0"}, "server_gpus=4: there is no device 4; this machine has 4 GPUs"),
        (FOUR, {"server_gpus": "0", "train_gpus": "7"}, "train_gpus=7: there is no device 7"),
        (FOUR, {"server_gpus": "0 1", "train_gpus": "2"}, "server_gpus=0 1: .* such as server_gpus=0,1"),
        (FOUR, {"server_gpus": "0,0", "train_gpus": "2"}, "server_gpus=0,0: a device is named twice"),
        (FOUR, {**GPUS, "server_tp": "3"}, "server_tp=3: the server's 2 devices do not divide .*write a divisor of 2"),
        (FOUR, {**GPUS, "server_tp": "0"}, "server_tp=0: give a whole number from 1"),
        (CPU, {"server_tp": "2"}, "server_tp=2: the server's 1 devices do not divide"),
        (CPU, {"server_gpu_memory_utilization": "85"}, "server_gpu_memory_utilization=85: give a share above 0"),
        (CPU, {"server_gpu_memory_utilization": "x"}, "server_gpu_memory_utilization=x: give a share above 0"),
        (CPU, {"server_gpu_memory_utilization": "nan"}, "server_gpu_memory_utilization=nan: give a share above 0"),
        (CPU, {"server_enforce_eager": "yes"}, "server_enforce_eager=yes: give true or false, or leave it unset"),
        (CPU, {"preflight": "1"}, "preflight=1: give only, or leave it unset"),
    ],
)
def test_variables_that_make_no_launch_are_refused(launch_config, machine, variables, words):
    with pytest.raises(LaunchError, match=words):
        plan(launch_config(), machine, **variables)


@pytest.mark.invariant("TRAIN-043")
@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        (servers("http://127.0.0.1:1", "http://127.0.0.1:2"), "vllm.server.servers[1].base_url",
         r"2 servers, and this launcher starts one; start them yourself, .*RUNBOOK.md says, and .*scripts/train\.sh"),
        ({"rollout_backend": "hf"}, "rollout_backend", "hf needs no server; start the learner alone: .*train.sh"),
        ({"vllm": {"mode": "colocate", "server": None}}, "vllm.mode",
         r"colocate needs no server: the engine is in the learner's process; start the learner alone: .*train\.sh"),
        (servers("http://10.0.0.7:80"), "vllm.server.servers[0].base_url", "other machines; .*or, .* set server_host"),
        (servers("http://localhost.a:80"), "vllm.server.servers[0].base_url", "can be reached from other machines"),
        (servers("https://127.0.0.1:8"), "vllm.server.servers[0].base_url", "http alone; write http://127.0.0.1:8$"),
    ],
)  # fmt: skip
def test_keys_that_this_launcher_does_not_serve_are_refused_at_their_line(launch_config, section, key, words):
    with pytest.raises(ConfigError, match=words) as raised:
        plan(launch_config(rollout_matching=section))
    (problem,) = raised.value.problems
    assert problem.path == ("rollout_matching", *key.split("."))
    assert re.search(r"\.yaml:\d+$", problem.where)


@pytest.mark.invariant("ROLL-072")
def test_a_run_whose_requests_are_dumped_is_launched(launch_config):
    dump = {"servers": [{"base_url": "http://127.0.0.1:8000", "group_port": 1}], "debug_dump": {"enabled": True}}
    config = launch_config(rollout_matching={"vllm": {"server": dump}})
    launch = build_stage2_launch({"config": str(config)}, CPU)
    assert server_section(launch.config).debug_dump.enabled


@pytest.mark.invariant("TRAIN-043")
def test_stage_1_is_sent_to_its_own_script(launch_config):
    with pytest.raises(ConfigError, match=r"stage1 has no rollouts, so .*bash scripts/train\.sh"):
        plan(launch_config(ROOT / "configs/stage1/smoke/shapes.yaml", rollout_matching=None))


@pytest.mark.invariant("TRAIN-043")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "localhost"])
def test_a_loopback_address_is_bound_as_it_is(launch_config, host):
    assert flag(plan(launch_config(rollout_matching=servers(f"http://{host}:8001"))), "--host") == host


@pytest.mark.invariant("TRAIN-043")
def test_another_address_is_bound_when_that_is_said(launch_config):
    document = plan(launch_config(rollout_matching=servers("http://10.0.0.7:8001")), server_host="0.0.0.0")
    assert (flag(document, "--host"), flag(document, "--port")) == ("0.0.0.0", "8001")
    assert document["server_base_urls"] == ["http://10.0.0.7:8001"]


@pytest.mark.invariant("TRAIN-043")
@pytest.mark.parametrize("which", ["base_url", "group_port"])
def test_a_port_that_is_taken_is_refused_before_anything_starts(launch_config, which):
    launch = build_stage2_launch({"config": str(launch_config())}, CPU)
    port = launch.options.port if which == "base_url" else launch.server.group_port
    check_ports(launch)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with pytest.raises(ConfigError, match=rf":\d+: .*{which}: 127.0.0.1:{port} cannot be bound .*another port"):
            check_ports(launch)
    check_ports(launch)


@pytest.mark.invariant("TRAIN-043")
def test_an_address_of_another_machine_cannot_be_bound(launch_config):
    section = servers("http://198.51.100.7:8001")
    launch = build_stage2_launch(
        {"config": str(launch_config(rollout_matching=section)), "server_host": "198.51.100.7"}, CPU
    )
    with pytest.raises(ConfigError, match=r"base_url: 198\.51\.100\.7:8001 cannot be bound"):
        check_ports(launch)


@pytest.mark.invariant("TRAIN-043")
@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"model": "no/such"}}, "model.model: 'no/such' does not exist; looked at"),
        ({"custom": {"val_jsonl": "no.jsonl"}}, "custom.val_jsonl: 'no.jsonl' does not exist; looked at"),
        ({"custom": {"image_root": "no"}}, "custom.image_root: 'no' does not exist; looked at"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_places_looked_at(launch_config, sections, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        plan(launch_config(**sections))


@pytest.mark.invariant("TRAIN-043")
def test_records_that_do_not_divide_over_the_learner_s_ranks_are_refused_early(launch_config):
    with pytest.raises(ConfigError, match=r"training.effective_batch_size: the 8 records .* over 3 ranks"):
        plan(launch_config(), FOUR, server_gpus="0", train_gpus="1,2,3")


@pytest.mark.invariant("TRAIN-041")
def test_relative_paths_start_at_the_config_or_its_project_never_at_the_caller(launch_config, monkeypatch, tmp_path):
    config = launch_config(custom={"image_root": "pictures"})
    (config.parent / "pictures").mkdir()
    for folder in ("fixtures", "pictures"):
        (tmp_path / "elsewhere" / folder).mkdir(parents=True)
    (tmp_path / "elsewhere" / "records.jsonl").touch()
    here = plan(config)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert plan(config) == here
    assert here["root_image_dir"]["train"] == str(config.parent / "pictures")


@pytest.mark.invariant("TRAIN-041")
def test_a_checkpoint_beside_the_configuration_comes_before_the_project_s(launch_config):
    config = launch_config()
    near = config.parent / "runs"
    near.mkdir()
    (near / "start").symlink_to(ROOT / "fixtures/tiny-qwen3vl-early")
    (near / "run.yaml").write_text("extends: ../run.yaml\nmodel: {model: start}\n", encoding="utf-8")
    document = plan(near / "run.yaml")
    assert document["model"] == flag(document, "--model") == str(ROOT / "fixtures/tiny-qwen3vl-early")
    assert document["jsonl"]["train"] == str(config.parent / "records.jsonl")


@pytest.mark.invariant("TRAIN-041")
def test_a_preflight_stops_there_and_a_run_goes_on(launch_config, monkeypatch, capsys):
    monkeypatch.setenv("config", str(launch_config()))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    port = build_stage2_launch(os.environ, CPU).options.port
    with socket.socket() as holder:
        # What goes on meets a port that is taken, and starts nothing.
        holder.bind(("127.0.0.1", port))
        holder.listen()
        assert main([]) == 2
        out, err = capsys.readouterr()
        assert check("stage2-preflight", json.loads(out)) and "cannot be bound" in err
        monkeypatch.setenv("preflight", "only")
        assert main([]) == 0
        assert capsys.readouterr() == (out, "")


@pytest.mark.invariant("TRAIN-041")
def test_a_folder_that_takes_no_log_is_refused_in_words(launch_config, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    config = launch_config(training={"output_dir": str(tmp_path / "file/run")})
    monkeypatch.setenv("config", str(config))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert main([]) == 2
    assert re.search("^train_stage2: .*file is a file, not a folder", capsys.readouterr().err)


@pytest.mark.invariant("TRAIN-041")
def test_the_image_folder_of_the_environment_is_used_and_has_to_be_absolute(launch_config, monkeypatch, tmp_path):
    monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path))
    assert plan(launch_config())["root_image_dir"] == {"train": str(tmp_path), "val": str(tmp_path)}
    monkeypatch.setenv("ROOT_IMAGE_DIR", "images")
    with pytest.raises(ImagePathError, match="ROOT_IMAGE_DIR='images' is not absolute"):
        plan(launch_config())


@pytest.mark.invariant("TRAIN-041")
@pytest.mark.parametrize("shipped", SERVED, ids=lambda path: path.stem)
def test_the_shipped_smoke_runs_with_a_server_are_launchable(launch_config, shipped):
    document = plan(launch_config(shipped))
    assert document["trainer_variant"] == shipped.parent.parent.name
    # Apart from names and from who generates, each is its twin.
    twin = load_config(shipped.with_name(f"{shipped.stem}_hf.yaml" if shipped.stem != "server" else "hf.yaml"))
    config = load_config(shipped)
    assert config.custom == twin.custom and config.model == twin.model and config.stage2_ab == twin.stage2_ab


SCRIPT = ROOT / "scripts/train_stage2.sh"


def run_script(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.invariant("TRAIN-041")
def test_the_script_prints_one_checked_line_from_any_folder(launch_config, tmp_path):
    config = launch_config()
    done = run_script(cwd=tmp_path, config=str(config), preflight="only")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    document = check("stage2-preflight", json.loads(line))
    assert document["config"] == str(config)
    assert not Path(document["output_dir"]).exists()


@pytest.mark.invariant("TRAIN-041")
@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ((), {}, "train_stage2: config is not set; write: config="),
        (("--config", "x"), {}, "train_stage2: arguments are not taken (--config x); write: config="),
        ((), {"config": "configs/none.yaml"}, "no such file"),
        ((), {"config": "configs/stage1/smoke/shapes.yaml"}, "stage1 has no rollouts"),
    ],
)
def test_the_script_refuses_in_words_and_starts_nothing(tmp_path, arguments, variables, words):
    done = run_script(*arguments, cwd=tmp_path, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.invariant("TRAIN-041")
@pytest.mark.parametrize(
    "change",
    [{"rollout_backend": "hf"}, {"vllm_mode": "colocate"}, {"server_base_urls": []}, {"model": "relative"},
     {"server_devices": [0, 0]}, {"api_key": "x"}, {"jsonl": {}}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_document_with_another_meaning_does_not_pass(launch_config, change):
    from coordexp.spec import violations

    document = plan(launch_config())
    assert violations("stage2-preflight", document) == []
    assert violations("stage2-preflight", {**document, **change})
