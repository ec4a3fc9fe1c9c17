"""How `scripts/train_stage2.sh` becomes a rollout server and a learner. Environment in, plan out; nothing is started.

`config` names the YAML; `server_gpus` and `train_gpus` list device indices, on a CPU neither is set. The same loader
reads the YAML here and in the learner, and the server's flags are derived from it. No torch. TRAIN-041..TRAIN-043.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.config import (
    Config,
    ConfigError,
    build_problem,
    check_trainable,
    load_config,
    resolve_input,
    resolve_output,
    units_per_step,
)
from coordexp.data.run_inputs import find_record_files
from coordexp.encode.checkpoint import CheckpointFolderError, check_checkpoint_folder, check_no_adapter
from coordexp.rollout.server_flags import ServerOptions, build_server_flags, server_address, vllm_sections
from coordexp.spec import check
from coordexp.training.launch import Launch, LaunchError, build_launch, check_devices, parse_gpus, resolve_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from coordexp.config.rollout_sections import VllmServerEntry
    from coordexp.data.run_inputs import RecordFile, Role

USAGE = "config=configs/stage2_two_channel/smoke/ab_mixed.yaml server_gpus=0 train_gpus=1 bash scripts/train_stage2.sh"
_SERVERS = "rollout_matching.vllm.server.servers"
_GPU_MEMORY, _CPU_MEMORY = 0.85, 0.2


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of this machine's GPUs; `gpu_count` is None where the driver does not tell."""

    gpu_driver: bool
    gpu_count: int | None


@dataclass(frozen=True, slots=True)
class Devices:
    """Device indices of the server and of the learner; both empty on a CPU."""

    server: tuple[int, ...]
    learner: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stage2Launch:
    """All that is decided before anything is started."""

    config: Config
    model: Path
    records: Mapping[Role, RecordFile]
    server: VllmServerEntry
    options: ServerOptions
    server_flags: tuple[str, ...]
    devices: Devices
    learner: Launch
    preflight_only: bool

    @property
    def output_dir(self) -> Path:
        """The run's folder, where the server's log goes too."""
        return resolve_output(self.config, self.config.training.output_dir)

    @property
    def timeout_s(self) -> float:
        """How long the server may take until it answers."""
        server = vllm_sections(self.config)[1].server
        assert server is not None
        return server.timeout_s


def build_stage2_launch(environment: Mapping[str, str], machine: Machine) -> Stage2Launch:
    """The plan. Raises `LaunchError` for variables, `ConfigError` for keys that make no launch."""
    path = resolve_config(environment.get("config", ""), USAGE)
    config = check_trainable(load_config(path))
    server = the_server(config)
    devices = read_devices(environment, machine)
    options = read_options(environment, config, server, devices)
    model = check_served(config, resolve_input(config, "model.model", config.model.model))
    trained_on = ",".join(str(device) for device in devices.learner)
    units_per_step(config, max(len(devices.learner), 1))
    return Stage2Launch(
        config=config,
        model=model,
        records=find_record_files(config),
        server=server,
        options=options,
        server_flags=build_server_flags(config, model, options),
        devices=devices,
        learner=build_launch({"config": str(path), "gpus": trained_on}, gpu_driver=machine.gpu_driver),
        preflight_only=read_choice(environment.get("preflight", ""), "preflight", {"": False, "only": True}),
    )


def check_served(config: Config, model: Path) -> Path:
    """Return the checkpoint's folder if a server may open it: no adapter, and nothing that a killed save has left.

    The learner looks closer, once the server is up.
    """
    try:
        return check_no_adapter(check_checkpoint_folder(model))
    except CheckpointFolderError as error:
        raise _refusal(config, "model.model", str(error)) from error


def the_server(config: Config) -> VllmServerEntry:
    """The one server of the configuration. Raises `ConfigError` where there is none to start, or several."""
    name, rollout = config.sources.path.name, config.rollout_matching
    alone = f"start the learner alone: config={config.sources.path} bash scripts/train.sh"
    if rollout is None:
        variant = config.custom.trainer_variant
        raise _refusal(
            config, "custom.trainer_variant", f"{variant} has no rollouts, so {name} needs no server; {alone}"
        )
    if rollout.rollout_backend != "vllm":
        text = f"{rollout.rollout_backend} needs no server; {alone}, or write rollout_backend: vllm"
        raise _refusal(config, "rollout_matching.rollout_backend", text)
    vllm = vllm_sections(config)[1]
    if vllm.mode != "server" or vllm.server is None:
        text = f"{vllm.mode} needs no server: the engine is in the learner's process; {alone}, or write mode: server"
        raise _refusal(config, "rollout_matching.vllm.mode", text)
    servers = vllm.server.servers
    if len(servers) > 1:
        text = f"{len(servers)} servers, and this launcher starts one; start them yourself, all with one "
        text += "COORDEXP_ROLLOUT_API_KEY, as docs/training/STAGE2_RUNBOOK.md says, and "
        raise _refusal(config, f"{_SERVERS}[1].base_url", text + alone)
    return servers[0]


def _refusal(config: Config, key: str, text: str) -> ConfigError:
    return ConfigError(str(config.sources.path), [build_problem(config, key, text)])


def read_devices(environment: Mapping[str, str], machine: Machine) -> Devices:
    """Disjoint devices of `server_gpus` and `train_gpus`; none on a machine without a driver."""
    if environment.get("gpus", "").strip():
        raise LaunchError(f"gpus is of scripts/train.sh; name both sets of devices: {USAGE}")
    server = parse_gpus(environment.get("server_gpus", ""), "server_gpus")
    learner = parse_gpus(environment.get("train_gpus", ""), "train_gpus")
    if not machine.gpu_driver:
        if server or learner:
            raise LaunchError(
                "server_gpus or train_gpus is set and there is no NVIDIA driver; leave both unset for the CPU"
            )
        return Devices((), ())
    for variable, devices in (("server_gpus", server), ("train_gpus", learner)):
        if not devices:
            text = f"{variable} is not set; server and learner need devices of their own: {USAGE}. With one GPU write "
            raise LaunchError(f"{text}rollout_matching.vllm.mode: colocate, and use scripts/train.sh")
        check_devices(devices, machine.gpu_count, variable)
    if shared := sorted(set(server) & set(learner)):
        raise LaunchError(f"device {shared[0]} stands in server_gpus and in train_gpus; each device is of one of them")
    return Devices(server, learner)


def read_options(
    environment: Mapping[str, str], config: Config, server: VllmServerEntry, devices: Devices
) -> ServerOptions:
    """How the server uses its devices, and where it listens."""
    gpu, count = bool(devices.server), max(len(devices.server), 1)
    host, port = read_address(environment, config, server)
    tensor = read_count(environment.get("server_tp", ""), "server_tp")
    if count % tensor:
        text = f"server_tp={tensor}: the server's {count} devices do not divide into copies of {tensor}"
        raise LaunchError(f"{text}; write a divisor of {count}")
    choices = {"": not gpu, "true": True, "false": False}
    return ServerOptions(
        host=host,
        port=port,
        tensor_parallel=tensor,
        data_parallel=count // tensor,
        gpu_memory_utilization=read_share(
            environment.get("server_gpu_memory_utilization", ""),
            "server_gpu_memory_utilization",
            _GPU_MEMORY if gpu else _CPU_MEMORY,
        ),
        enforce_eager=read_choice(environment.get("server_enforce_eager", ""), "server_enforce_eager", choices),
    )


def read_address(environment: Mapping[str, str], config: Config, server: VllmServerEntry) -> tuple[str, int]:
    """The address to bind: that of base_url when it is a loopback one, else the address of `server_host`."""
    host, port = server_address(server.base_url)
    if server.base_url.startswith("https"):
        text = f"{server.base_url}: the server that is started here speaks http alone; write http://{host}:{port}"
        raise _refusal(config, f"{_SERVERS}[0].base_url", text)
    told = environment.get("server_host", "").strip()
    if not told and not is_loopback(host):
        text = (
            f"{server.base_url} can be reached from other machines; write http://127.0.0.1:{port}, or, where that is "
        )
        text += "meant, set server_host to the address of this machine that the server is to bind"
        raise _refusal(config, f"{_SERVERS}[0].base_url", text)
    return told or host, port


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone, told by its name or address and by no look-up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_count(value: str, variable: str) -> int:
    """A number from 1; 1 where the variable is unset."""
    if not value.strip():
        return 1
    if not (value.strip().isascii() and value.strip().isdigit() and int(value) > 0):
        raise LaunchError(f"{variable}={value}: give a whole number from 1")
    return int(value)


def read_share(value: str, variable: str, default: float) -> float:
    """A share above 0 and up to 1."""
    if not value.strip():
        return default
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise LaunchError(f"{variable}={value}: give a share above 0 and up to 1, such as {default}")
    return share


def read_choice(value: str, variable: str, choices: Mapping[str, bool]) -> bool:
    """What one of a few words stands for; "" is the variable unset."""
    if value.strip() not in choices:
        allowed = " or ".join(word for word in choices if word)
        raise LaunchError(f"{variable}={value}: give {allowed}, or leave it unset")
    return choices[value.strip()]


def check_ports(launch: Stage2Launch) -> None:
    """Raise `ConfigError` for a port that another process holds, or an address that is not this machine's."""
    for key, port in (("base_url", launch.options.port), ("group_port", launch.server.group_port)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            # As the server binds: a port that was closed a moment ago is free.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((launch.options.host, port))
            except OSError as error:
                text = f"{launch.options.host}:{port} cannot be bound ({error.strerror}); stop what holds it, or write "
                raise _refusal(launch.config, f"{_SERVERS}[0].{key}", f"{text}another port") from error


def preflight_document(launch: Stage2Launch) -> dict[str, Any]:
    """What will be started, as the checked document that the launcher prints in one line."""
    rollout, vllm = vllm_sections(launch.config)
    document = {
        "rollout_backend": rollout.rollout_backend,
        "vllm_mode": vllm.mode,
        "server_base_urls": [launch.server.base_url],
        "config": str(launch.learner.config),
        "trainer_variant": launch.config.custom.trainer_variant,
        "output_dir": str(launch.output_dir),
        "model": str(launch.model),
        "max_model_len": vllm.max_model_len,
        "jsonl": {role: str(file.jsonl) for role, file in launch.records.items()},
        "root_image_dir": {role: str(file.image_root) for role, file in launch.records.items()},
        "server_flags": list(launch.server_flags),
        "server_devices": list(launch.devices.server),
        "group_port": launch.server.group_port,
        "learner_command": list(launch.learner.command),
        "learner_devices": list(launch.devices.learner),
    }
    return check("stage2-preflight", document)
