"""Environment in, the plugin's hooks on this process's ms-swift out. Contract ids: ROLL-013, ROLL-014."""

from __future__ import annotations

import multiprocessing
import os
import signal

from coordexp.bridges.store_communicator import enable_cpu_weight_sync
from coordexp.bridges.swift_rollout import ServerHooks, install_hooks
from coordexp.bridges.vllm_grammar import install_grammar
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.rollout.activation import read_activation
from coordexp.rollout.grammar import find_exact
from coordexp.rollout.lifetime import tie_to
from coordexp.rollout.serve import shared_key
from coordexp.rollout.server_plugin.guard import PROCESSOR
from coordexp.rollout.server_plugin.liveness import LOGPROBS_MODE, Served, describe_app, describe_engine


def install_plugin() -> None:
    """Install the hooks, once a process; in a worker, also tie its life to the app's. Raises `ActivationError` for an
    environment that asks for repeat_terminate and does not say how.
    """
    limits = read_activation(os.environ)
    served = Served(limits)
    hooks = ServerHooks(
        describe_engine=describe_engine,
        app_facts=lambda deploy: describe_app(deploy, served),
        envelope=lambda deploy, request, answer: served.envelope(deploy.args.model, request, answer),
        weights_loaded=served.count_load,
        api_key=shared_key(),
        stop_token=END_OF_TURN,
        logprobs_mode=LOGPROBS_MODE,
        # By name: an engine whose devices are other processes has them import it.
        engine_kwargs={} if limits is None else {"logits_processors": [PROCESSOR]},
    )
    enable_cpu_weight_sync()
    install_grammar(find_exact, END_OF_TURN)
    install_hooks(hooks)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with(parent.pid)


def end_with(parent: int) -> None:
    """Have the kernel end this process when its parent, of this pid, ends: a worker holds the engine, and nobody else
    would stop it.

    Linux alone can; elsewhere the worker ends when it next speaks to the app.
    """
    if (tie := tie_to(parent, signal.SIGKILL)) is not None:
        tie()
