"""A run in, its rollout backend over live servers out: connected, compared, and with a way for weights. TRAIN-051.

Only wiring: the parts are those of `coordexp.rollout` and of `learner_policy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from coordexp.forward.unwrap import unwrap_model
from coordexp.rollout.canary import Canary
from coordexp.rollout.scoring import TeacherScorer
from coordexp.rollout.server_flags import server_dtype
from coordexp.rollout.vllm_client import Prompting, VllmServerClient, requests_in_a_round
from coordexp.rollout.vllm_server import VllmServerBackend
from coordexp.rollout.weight_link import WeightLink
from coordexp.rollout.weight_sync import WeightPusher, WeightSync
from coordexp.training.learner_policy import LearnerPolicy, canary_noise, canary_request
from coordexp.training.server_connect import server_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.config.rollout_sections import RolloutMatchingConfig
    from coordexp.rollout.wire import ServerConnection
    from coordexp.training.build import Run


def build_server_backend(run: Run, section: RolloutMatchingConfig) -> VllmServerBackend:
    """The backend of this rank over the run's servers. Raises where some rank would never be served."""
    encoder, shard = run.foundation.encoder, run.learner.shard
    servers = run.servers
    share = requests_in_a_round(section.decode_batch_size, [server.capacity for server in servers], shard.world_size)
    prompting = Prompting(tuple(encoder.messages("<image>")), encoder.tokenizer)
    assert section.vllm is not None
    client = VllmServerClient(servers, prompting, share, section.vllm.max_model_len)
    client.watch = run.dumps.requests
    scorer = TeacherScorer(unwrap_model(run.learner.model), encoder.processor)
    pusher = _build_pusher(run, client, scorer) if shard.rank == 0 else None
    return VllmServerBackend(client, WeightSync(pusher), scorer, server_dtype(run.config))


def _build_pusher(run: Run, client: VllmServerClient, scorer: TeacherScorer) -> WeightPusher:
    """Rank 0's side, with a canary on the first training record."""
    config, request = run.config, canary_request(run)
    canary = Canary(request, scorer, canary_noise(config))
    entries = server_section(config).servers
    by_url = {server.connection.base_url: server for server in client.servers}

    def prove(connection: ServerConnection) -> float:
        output = client.ask(by_url[connection.base_url], [request], canary.decoding, 0)[0]
        return canary.check(connection.base_url, output)

    connections = [server.connection for server in client.servers]
    return WeightPusher(
        servers=connections,
        links=_links(connections, [entry.group_port for entry in entries], run.learner.run.placement.device),
        policy=LearnerPolicy(run.learner.model, run.motion),
        dtype=getattr(torch, server_dtype(config)),
        prove=prove,
        weight_loads=client.weight_loads,
    )


def _links(connections: Sequence[ServerConnection], ports: Sequence[int], device: torch.device) -> list[WeightLink]:
    return [WeightLink(connection, port, device) for connection, port in zip(connections, ports, strict=True)]
