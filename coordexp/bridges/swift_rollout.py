"""Give ms-swift's rollout server what a learner has to know and to decide. Contract ids: BRIDGE-009, BRIDGE-010.

In a worker: seeds of each request's own, raw log-probabilities, answers that end at one token id and nowhere else. In
the app: a liveness route, and what the plugin adds to each answer. Installed by the plugin, in every process, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import psutil
from fastapi import Depends, HTTPException
from fastapi.encoders import jsonable_encoder
from swift.pipelines.infer import rollout

from coordexp.bridges.request_seeds import EXTRA, AnswerRules, extra_of, seeded_engine
from coordexp.bridges.versions import check_proven

PROVEN_VERSIONS = {"ms-swift": "4.6."}
LIVENESS_ROUTE = "/coordexp/liveness/"
_MARK = "coordexp_hooks"
_PORT_FLAG = "--port"


@dataclass(frozen=True, slots=True)
class ServerHooks:
    """What the plugin does. `describe_engine` runs in a worker; the others in the app, which `app_facts` describes.

    `envelope` gives what an answer gains, from ms-swift's deployment, its request and itself; what it raises as a
    `ValueError` the caller is told, with status 500. `weights_loaded` is told of each finished load. An engine is built
    with `engine_kwargs` beside its flags.
    """

    describe_engine: Callable[[Any], dict[str, Any]]
    app_facts: Callable[[Any], dict[str, Any]]
    envelope: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    weights_loaded: Callable[[], None]
    api_key: str | None
    stop_token: str
    logprobs_mode: str
    engine_kwargs: Mapping[str, Any]


def install_hooks(hooks: ServerHooks) -> bool:
    """Put the hooks on ms-swift's rollout pipeline; False where they are in place. Raises `ImportError` elsewhere."""
    if hasattr(rollout.SwiftRolloutDeploy, _MARK):
        return False
    check_proven(PROVEN_VERSIONS, "the rollout server with hooks")
    setattr(rollout.SwiftRolloutDeploy, _MARK, True)
    # The worker looks the class up by this name when it builds its engine.
    rules = AnswerRules(hooks.stop_token, hooks.logprobs_mode, hooks.engine_kwargs)
    rollout.GRPOVllmEngine = seeded_engine(rollout.GRPOVllmEngine, rules, hooks.describe_engine)
    _hook_app(rollout.SwiftRolloutDeploy, hooks)
    return True


def _hook_app(app_class: Any, hooks: ServerHooks) -> None:
    register, infer, processed = (
        app_class._register_rl_rollout_app,
        app_class.infer,
        app_class.process_weights_after_loading,
    )

    async def liveness(self: Any) -> dict[str, Any]:
        """What the app and each of its workers run."""
        for connection in self.connections:
            connection.send({"type": "call", "method": "coordexp_describe"})
        # Without yielding, as upstream's own handlers: an answer belongs to whoever asked last.
        workers = [connection.recv() for connection in self.connections]
        if None in workers:
            raise HTTPException(500, "a worker could not describe itself; its log says why")
        return {**hooks.app_facts(self), "workers": workers}

    @wraps(register)
    def registered(self: Any) -> None:
        if hooks.api_key is not None and not self.args.api_key:
            self.args.api_key = hooks.api_key
        # Upstream takes another port where this one cannot be had, without a word; so the server ends with the reason.
        asked = asked_port(psutil.Process().cmdline())
        if asked is not None:
            self.args.port = asked
        register(self)
        guard = [Depends(self._require_api_key())]
        self.app.get(LIVENESS_ROUTE, dependencies=guard)(self.coordexp_liveness)

    @wraps(infer)
    async def inferred(self: Any, infer_requests: Any, request_config: Any = None, *, use_tqdm: Any = None) -> Any:
        outputs = await infer(self, infer_requests, request_config, use_tqdm=use_tqdm)
        answers = [jsonable_encoder(output) for output in outputs]
        try:
            return [
                {**answer, EXTRA: hooks.envelope(self, extra_of(request), answer)}
                for request, answer in zip(infer_requests, answers, strict=True)
            ]
        except ValueError as error:
            raise HTTPException(500, str(error)) from error

    @wraps(processed)
    async def counted(self: Any) -> Any:
        reply = await processed(self)
        hooks.weights_loaded()
        return reply

    app_class.coordexp_liveness = liveness
    app_class._register_rl_rollout_app = registered
    app_class.infer = inferred
    app_class.process_weights_after_loading = counted


def asked_port(flags: Sequence[str]) -> int | None:
    """What `--port` of a command line says; None without it."""
    return int(flags[flags.index(_PORT_FLAG) + 1]) if _PORT_FLAG in flags else None
