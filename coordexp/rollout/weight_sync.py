"""A newer policy in, servers that run it out, proven: push, caches, canary; every rank goes the same way.

Rank 0 pushes between two meetings of all ranks; the second one carries how it went, so every rank goes on or every rank
raises the same error. ROLL-022, ROLL-023.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist

from coordexp.rollout.tasks import within
from coordexp.rollout.types import RolloutError
from coordexp.rollout.weight_digest import WeightDigest
from coordexp.rollout.weight_link import BUCKET_BYTES, WeightLink, fill_buckets
from coordexp.rollout.wire import RolloutServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.rollout.wire import ServerConnection


class Policy(Protocol):
    """The learner's weights."""

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every weight under its name in a checkpoint, adapters and offsets merged in."""
        ...

    def count(self) -> int:
        """How many of them there are, whatever `weights` yields."""
        ...

    def moved(self) -> bool:
        """Whether an update with a learning rate above 0 has been made since the last push."""
        ...

    def note_push(self) -> None:
        """The weights have been pushed."""
        ...


@dataclass(frozen=True, slots=True)
class PushReport:
    """One push: tensors and their bytes, a digest of them, seconds, the canary's gap, each server's loads so far."""

    tensors: int
    nbytes: int
    digest: str
    seconds: float
    gap: float
    weight_loads: dict[str, int]


@dataclass
class WeightPusher:
    """Rank 0's side. `prove` asks one server for the canary's answer and returns the gap, or raises. Tensors travel in
    buckets of at most `bucket_bytes`.
    """

    servers: Sequence[ServerConnection]
    links: Sequence[WeightLink]
    policy: Policy
    dtype: torch.dtype
    prove: Callable[[ServerConnection], float]
    weight_loads: dict[str, int]
    bucket_bytes: int = BUCKET_BYTES
    last: PushReport | None = field(default=None, init=False)

    def push(self) -> PushReport:
        """Bring every server to the policy's weights, and prove it. Raises `RolloutServerError`."""
        started = time.monotonic()
        deadline = max(server.timeout_s for server in self.servers)
        names = ", ".join(server.base_url for server in self.servers)

        def alive() -> bool:
            return all(server.accepts() for server in self.servers)

        digest = within(deadline, f"weight push to {names}", alive, self._send)
        check_content(digest, self.policy, self.last, self.dtype)
        self._check_loads(1)
        left = max(deadline - (time.monotonic() - started), 1.0)
        gap = within(left, f"canary of {names}", alive, lambda: max(self.prove(server) for server in self.servers))
        seconds = time.monotonic() - started
        self.last = PushReport(digest.count, digest.bytes, digest.hexdigest(), seconds, gap, dict(self.weight_loads))
        self.policy.note_push()
        return self.last

    def _send(self) -> WeightDigest:
        digest = WeightDigest()
        # Before anything is sent: a worker that waits for another learner's tensors would be lost to both.
        self._check_loads(0)
        for link in self.links:
            link.open()
        with torch.no_grad():
            weights = ((name, weight.to(self.dtype)) for name, weight in self.policy.weights())
            for bucket in fill_buckets(weights, self.bucket_bytes):
                for name, weight in bucket:
                    digest.add(name, weight)
                for link in self.links:
                    link.push(bucket)
        for link in self.links:
            link.finish()
        return digest

    def _check_loads(self, more: int) -> None:
        """Every server has had this learner's loads of weights and no others: those that are known, and `more`."""
        told = {server.base_url: int(server.call("/coordexp/liveness/")["weight_loads"]) for server in self.servers}
        for url, count in told.items():
            if count != self.weight_loads[url] + more:
                text = f"counts {count} loads of weights where {self.weight_loads[url] + more} are this learner's"
                raise RolloutServerError(f"{url} {text}: another learner pushes to it, or it was restarted")
        # In place: the client that asks for the canary knows them by this mapping.
        self.weight_loads.update(told)


def check_content(digest: WeightDigest, policy: Policy, last: PushReport | None, dtype: torch.dtype) -> None:
    """What was given to an engine is the policy's, and another than last time if the policy has moved.

    Raises `RolloutServerError`.
    """
    wanted = policy.count()
    if digest.count != wanted:
        text = f"{digest.count} tensors were pushed, and the policy has {wanted}: the server would run a mixture"
        raise RolloutServerError(f"weight push: {text}; this is a fault of the merge, please report it")
    if last is not None and policy.moved() and digest.hexdigest() == last.digest:
        raise RolloutServerError(
            f"weight push: all {digest.count} tensors are those of the last push, though the optimizer has made "
            "updates with a learning rate above 0 since: what is trained is not what is pushed (an adapter that is "
            f"not merged), or updates vanish in {dtype}"
        )


class WeightSync:
    """Every rank's side; `pusher` is None on all but rank 0."""

    def __init__(self, pusher: WeightPusher | None) -> None:
        self.pusher = pusher

    def run(self) -> PushReport:
        """Push on rank 0 while the others wait; the report on every rank. A collective.

        Raises on every rank, with the same text, what rank 0's push raises.
        """
        _meet()
        outcome: list[PushReport | str] = [""]
        cause: RolloutError | None = None
        if self.pusher is not None:
            try:
                outcome = [self.pusher.push()]
            except RolloutError as error:
                cause, outcome = error, [str(error)]
        if dist.is_initialized():
            dist.broadcast_object_list(outcome, src=0)
        told = outcome[0]
        if isinstance(told, str):
            raise RolloutServerError(told) from cause
        return told


def _meet() -> None:
    """No rank generates with the old weights any more."""
    if dist.is_initialized():
        dist.barrier()
