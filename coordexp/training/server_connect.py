"""A configuration in, live servers out that run what it says; asked before weights are loaded. TRAIN-051.

The launcher asks too, as soon as its server is ready, so both say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from coordexp.config import resolve_input
from coordexp.encode.vocabulary import fingerprint_tokenizer
from coordexp.rollout.drift import Expected, expected_of
from coordexp.rollout.serve import shared_key
from coordexp.rollout.server_plugin.liveness import package_versions
from coordexp.rollout.vllm_client import LiveServer, connect
from coordexp.rollout.wire import ServerConnection

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.config.rollout_sections import VllmServerConfig
    from coordexp.encode.encoder import Encoder


def uses_servers(config: Config) -> bool:
    """Whether rollouts come from servers."""
    return vllm_mode(config) == "server"


def vllm_mode(config: Config) -> Literal["server", "colocate"] | None:
    """Where vLLM generates; None where it does not."""
    section = config.rollout_matching
    if section is None or section.rollout_backend != "vllm" or section.vllm is None:
        return None
    return section.vllm.mode


def connections_of(server: VllmServerConfig) -> list[ServerConnection]:
    """The configured servers, with the key from the environment."""
    key = shared_key()
    return [ServerConnection(entry.base_url, key, server.timeout_s, server.infer_timeout_s) for entry in server.servers]


def check_server(config: Config, api_key: str, seconds: float) -> None:
    """Ask the configured servers what they run, each within `seconds`, without the learner's tokenizer.

    Raises `RolloutServerError` for one that runs something else.
    """
    expected = expected_server(config, None)
    for entry in server_section(config).servers:
        connect(ServerConnection(entry.base_url, api_key, seconds, None), expected)


def expected_server(config: Config, encoder: Encoder | None) -> Expected:
    """What a server of this run must say of itself; without an encoder nothing is asked of its tokenizer."""
    model = resolve_input(config, "model.model", config.model.model)
    tokenizer = None if encoder is None else fingerprint_tokenizer(encoder.tokenizer)
    return expected_of(config, model, package_versions(), tokenizer)


def connect_servers(config: Config, encoder: Encoder | None) -> tuple[LiveServer, ...]:
    """The configured servers. Raises `RolloutServerError` for one that is not there or runs something else; without an
    encoder nothing is asked of its tokenizer.
    """
    expected = expected_server(config, encoder)
    return tuple(connect(connection, expected) for connection in connections_of(server_section(config)))


def server_section(config: Config) -> VllmServerConfig:
    """`rollout_matching.vllm.server`, which the loader demands of mode server."""
    section = config.rollout_matching
    assert section is not None and section.vllm is not None and section.vllm.server is not None
    return section.vllm.server
