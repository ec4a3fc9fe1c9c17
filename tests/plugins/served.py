"""Rollout servers and engines without an engine for a run that is built: they say that they run what it asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.encode.processor import load_processor
from coordexp.encode.vocabulary import fingerprint_tokenizer
from coordexp.rollout.server_plugin.liveness import package_versions
from coordexp.rollout.server_plugin.repeats import digest_limits
from coordexp.rollout.wire import RolloutServerError
from tests.plugins.rogue_answers import liveness
from tests.plugins.rogue_server import Rogue, free_port, says

if TYPE_CHECKING:
    from coordexp.config import Config

DEVICES = (2, 1)


def with_servers(section: Mapping[str, Any], servers: Sequence[Rogue]) -> dict[str, Any]:
    """`rollout_matching` with these servers, each with a port of its own for weights."""
    vllm = section["vllm"]
    rows = [{"base_url": server.base_url, "group_port": free_port()} for server in servers]
    return {**section, "vllm": vllm | {"server": vllm["server"] | {"servers": rows}}}


def answer_for(config: Config, servers: Sequence[Rogue]) -> None:
    """Let `servers` say what a run of `config` expects; nobody joins a push."""
    section = config.rollout_matching
    assert section is not None and section.vllm is not None
    folder = Path(config.model.model)
    worker = {
        "model": str(folder.resolve()),
        "max_pixels": config.template.max_pixels,
        "dtype": config.model.torch_dtype,
        "max_model_len": section.vllm.max_model_len,
        "enable_prefix_caching": section.vllm.enable_prefix_caching,
        "tokenizer": fingerprint_tokenizer(load_processor(folder).tokenizer),
        "repeat_terminate": digest_limits(section.repeat_terminate) if section.repeat_terminate.enabled else None,
    }
    done = says({"message": "Request received"})
    for server, devices in zip(servers, DEVICES, strict=True):
        server.paths = {
            "/coordexp/liveness/": [says(liveness(worker, versions=package_versions()))],
            "/get_world_size/": [says({"world_size": devices})],
            "/init_communicator/": [done],
            "/close_communicator/": [done],
        }


class NoEngine:
    """In the place of an engine in a run's process: keeps what it was to be."""

    name = "engine of this process"
    can_sleep = False

    def __init__(self, settings: Any, rules: Any, describe: Any) -> None:
        self.settings, self.rules = settings, rules

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}

    def sleep(self) -> None:
        """It has nothing to give back."""


def port_of_a_push(backend: Any) -> int:
    """The port at which a push waits for the first server's workers, who do not come."""
    with pytest.raises(RolloutServerError, match="cannot be joined") as refused:
        backend.sync(0)
    found = re.search(r"at port (\d+) cannot be joined", str(refused.value))
    assert found is not None
    return int(found[1])


def room_for_answers(built: Any) -> int:
    """Tokens of prompt and answer together that the client allows, as it says itself."""
    from coordexp.rollout.types import Decoding, RolloutRequest

    backend = built.phase.backend
    client = backend.answers if hasattr(backend, "answers") else backend.client
    with pytest.raises(ValueError, match=r"exceeds rollout_matching\.vllm\.max_model_len") as refused:
        client.generate([RolloutRequest("a", (1,))], Decoding(100_000), 0)
    return int(str(refused.value).partition("vllm.max_model_len ")[2].partition(";")[0])
