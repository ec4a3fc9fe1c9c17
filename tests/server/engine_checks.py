"""A learner with the engine in its process, in a process of its own: what it does, as one JSON for `test_colocate`.

`python -m tests.server.engine_checks CONFIG`. An engine changes its process, so no test holds one.
"""

from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
import torch.distributed as dist

from coordexp.config import load_config
from coordexp.coordjson import render_expression
from coordexp.data.records import read_records
from coordexp.forward.unwrap import unwrap_model
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.requests import build_requests
from coordexp.rollout.types import Decoding, RolloutError
from coordexp.training import colocate_rollouts
from coordexp.training.stage2_rollout_aligned import build_stage2_rollout_aligned
from tests.server.learners import disturb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.rollout.colocate import ColocateBackend
    from coordexp.rollout.types import RolloutOutput, RolloutRequest

OWN_VARIABLES = ("VLLM_", "_TORCHINDUCTOR_")
"""The engine's, and one by which torch's compiler speaks to what it has compiled."""
GREEDY, DRAWN = Decoding(160), Decoding(48, temperature=0.9, top_p=0.9, seed_base=11)


def numbers() -> dict[str, Any]:
    """What the learner's numbers depend on, and what a user of the process would miss."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "python": str(random.getstate()),
        "grad": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "set_num_threads": torch.set_num_threads.__module__,
        "cores": sorted(os.sched_getaffinity(0)),
        "environment": {name: value for name, value in os.environ.items() if not name.startswith(OWN_VARIABLES)},
    }


def answers(outputs: Sequence[RolloutOutput]) -> list[dict[str, Any]]:
    return [
        {
            "ids": output.response_token_ids,
            "reason": output.finish_reason,
            "logprobs": output.token_logprobs,
            "version": output.policy_version,
            "repeat": output.repeat_terminated,
        }
        for output in outputs
    ]


class Checks:
    """The learner, its engine, and what they are asked."""

    def __init__(self, path: str) -> None:
        config = load_config(path)
        trainer = build_stage2_rollout_aligned(config)
        assert trainer.parts.rollouts is not None
        self.backend: ColocateBackend = trainer.parts.rollouts.backend  # type: ignore[assignment]
        self.model, self.release = trainer.model, trainer.parts.release
        encoder = trainer.parts.run.encoder
        assert config.rollout_matching is not None
        repeats = config.rollout_matching.repeat_terminate
        model = unwrap_model(trainer.model)
        self.own = HfBackend(model, encoder.processor, decode_batch_size=8, logprobs=True, repeats=repeats)
        made = build_requests(list(read_records(config.custom.val_jsonl)), encoder)
        self.requests = [replace(made[i % len(made)], index=i) for i in range(5)]

    def both(self, requests: Sequence[RolloutRequest], decoding: Decoding = GREEDY) -> dict[str, Any]:
        """The engine's answers, greedy unless told otherwise, and the learner's own."""
        served = self.backend.generate(requests, decoding)
        return {"engine": answers(served), "learner": answers(self.own.generate(requests, decoding))}

    def refusal(self, version: int) -> str:
        """What a sync to this version says, and nothing where it says that all is well."""
        try:
            self.backend.sync(version)
        except RolloutError as error:
            return str(error)
        return ""

    def without(self, part: str) -> str:
        """A sync whose weights lack those with `part` in their name."""
        policy = self.backend.loader.policy
        self.backend.loader.policy = Partial(policy, part)
        said = self.refusal(90)
        self.backend.loader.policy = policy
        return said

    def ignored(self) -> str:
        """A sync whose weights the engine takes and does not use, as one does that computes with packed copies."""
        engine = self.backend.loader.engine
        self.backend.loader.engine = Deaf()  # type: ignore[assignment]
        said = self.refusal(91)
        self.backend.loader.engine = engine
        return said

    def parameters(self, part: str) -> list[torch.Tensor]:
        return [tensor for name, tensor in unwrap_model(self.model).named_parameters() if part in name]


class Partial:
    """A policy that leaves some weights out, and counts what is left."""

    def __init__(self, policy: Any, part: str) -> None:
        self._policy, self._part = policy, part

    def weights(self) -> Any:
        return ((name, tensor) for name, tensor in self._policy.weights() if self._part not in name)

    def count(self) -> int:
        return sum(1 for _ in self.weights())

    def moved(self) -> bool:
        return False

    def note_push(self) -> None:
        raise AssertionError("nothing was proven")


class Deaf:
    """Takes weights and leaves its own as they are."""

    def load(self, weights: Any) -> None:
        for _ in weights:
            pass


def run(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"build": []}
    build = colocate_rollouts.build_engine

    def watched(*given: Any) -> Any:
        found["build"].append(numbers())
        engine = build(*given)
        found["build"].append(numbers())
        return engine

    colocate_rollouts.build_engine = watched
    checks = Checks(path)
    used = numbers()
    found["version"] = [checks.backend.policy_version]
    found["unmoved"] = checks.refusal(0)
    found["first"] = checks.both(checks.requests)
    # In an order that the model has not learnt, so that the mask decides nearly everywhere.
    found["grammar"] = checks.both(checks.requests, replace(GREEDY, grammar=render_expression("geometry_first")))
    disturb([p for p in checks.model.parameters() if p.requires_grad], 0.02)
    found["stale"] = answers(checks.backend.generate(checks.requests[:2], GREEDY))
    found["ignored"] = checks.ignored()
    found["without_vision"] = checks.without("visual")
    found["moved"] = checks.refusal(1)
    found["second"] = checks.both(checks.requests)
    # The images are those that the engine's caches have seen: only the tower that reads them is another.
    disturb(checks.parameters("visual"), 0.2)
    found["tower"] = checks.refusal(2)
    found["third"] = checks.both(checks.requests)
    found["again"] = checks.refusal(2)
    together = checks.backend.generate(checks.requests, DRAWN)
    alone = [output for request in reversed(checks.requests) for output in checks.backend.generate([request], DRAWN)]
    found["drawn"] = [answers(together), answers(alone[::-1])]
    found["observed"] = dict(checks.backend.take_observed())
    found["use"] = [used, numbers()]
    found["described"] = checks.backend.describe()
    found["group"] = [dist.is_initialized()]
    checks.release()
    checks.release()
    found["group"].append(dist.is_initialized())
    found["children"] = [child.name() for child in psutil.Process().children(recursive=True)]
    return found


if __name__ == "__main__":
    told = run(sys.argv[1])
    with open(sys.argv[2], "w", encoding="utf-8") as stream:
        json.dump(told, stream)
