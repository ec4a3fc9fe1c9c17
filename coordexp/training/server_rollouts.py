"""A run in, its rollout backend over live servers out: connected, compared, and with a way for weights. TRAIN-051.

Only wiring: the parts are those of `coordexp.rollout` and of `coordexp.forward.merged_weights`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from coordexp.forward.merged_weights import UnservableWeights, iter_merged_weights, merged_names
from coordexp.forward.unwrap import unwrap_model
from coordexp.rollout.canary import NOISE, Canary
from coordexp.rollout.requests import build_requests
from coordexp.rollout.scoring import TeacherScorer
from coordexp.rollout.server_flags import server_dtype
from coordexp.rollout.vllm_client import Prompting, VllmServerClient, requests_in_a_round
from coordexp.rollout.vllm_server import VllmServerBackend
from coordexp.rollout.weight_link import WeightLink
from coordexp.rollout.weight_sync import WeightPusher, WeightSync
from coordexp.rollout.wire import RolloutServerError
from coordexp.training.server_connect import server_section

if TYPE_CHECKING:
    from torch import nn

    from coordexp.config.rollout_sections import RolloutMatchingConfig
    from coordexp.rollout.wire import ServerConnection
    from coordexp.training.build import Run
    from coordexp.training.policy_motion import PolicyMotion


@dataclass(frozen=True, eq=False)
class LearnerPolicy:
    """The weights that a run trains, as a rollout server takes them; `motion` watches the optimizer."""

    model: nn.Module
    motion: PolicyMotion

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Merged, by name. Raises `RolloutServerError` for weights that no server takes, or that are not finite."""
        try:
            yield from iter_merged_weights(self.model)
        except UnservableWeights as error:
            raise RolloutServerError(f"weight push: {error}") from error

    def count(self) -> int:
        """How many there are."""
        return len(merged_names(self.model))

    def moved(self) -> bool:
        """Whether an update could have changed them since the last push."""
        return self.motion.moved_since_push()

    def note_push(self) -> None:
        """They have been pushed."""
        self.motion.note_push()


def build_server_backend(run: Run, section: RolloutMatchingConfig) -> VllmServerBackend:
    """The backend of this rank over the run's servers. Raises where some rank would never be served."""
    encoder, shard = run.foundation.encoder, run.learner.shard
    servers = run.servers
    share = requests_in_a_round(section.decode_batch_size, [server.capacity for server in servers], shard.world_size)
    prompting = Prompting(tuple(encoder.messages("<image>")), encoder.tokenizer)
    assert section.vllm is not None
    client = VllmServerClient(servers, prompting, share, section.vllm.max_model_len)
    scorer = TeacherScorer(unwrap_model(run.learner.model), encoder.processor)
    pusher = _build_pusher(run, client, scorer) if shard.rank == 0 else None
    return VllmServerBackend(client, WeightSync(pusher), scorer, server_dtype(run.config))


def _build_pusher(run: Run, client: VllmServerClient, scorer: TeacherScorer) -> WeightPusher:
    """Rank 0's side, with a canary on the first training record."""
    config, foundation = run.config, run.foundation
    samples = foundation.samples["train"]
    request = build_requests(samples.records[:1], foundation.encoder, samples.file.image_root)[0]
    dtype = server_dtype(config)
    coarser = max((dtype, config.model.torch_dtype), key=lambda name: NOISE[name].ceiling)
    canary = Canary(request, scorer, NOISE[coarser])
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
        dtype=getattr(torch, dtype),
        prove=prove,
        weight_loads=client.weight_loads,
    )


def _links(connections: Sequence[ServerConnection], ports: Sequence[int], device: torch.device) -> list[WeightLink]:
    return [WeightLink(connection, port, device) for connection, port in zip(connections, ports, strict=True)]
