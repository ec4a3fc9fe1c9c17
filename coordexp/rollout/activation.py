"""How the limits of repeat_terminate reach a server: its environment at the start, and nothing later. ROLL-042.

In: the section of the configuration; out: two variables, and the section again in the server's processes. No torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from coordexp.config.rollout_sections import RepeatTerminateConfig
from coordexp.spec import ContractViolation, check

if TYPE_CHECKING:
    from collections.abc import Mapping

INJECTION_VARIABLE = "COORDEXP_ENABLE_VLLM_REPEAT_TERMINATE_INJECTION"
LIMITS_VARIABLE = "COORDEXP_VLLM_REPEAT_TERMINATE_CONFIG_JSON"
ACTIVATION_VARIABLES = (INJECTION_VARIABLE, LIMITS_VARIABLE)
_SCHEMA = "config/rollout_matching.repeat_terminate"
_ADVICE = "it is rollout_matching.repeat_terminate of the run as JSON, which scripts/train_stage2.sh writes"


class ActivationError(ValueError):
    """An environment that asks for a guard and does not say which."""


def render_activation(limits: RepeatTerminateConfig | None) -> dict[str, str]:
    """What a server's environment holds: the whole section, or that nothing is asked for."""
    if limits is None or not limits.enabled:
        return {INJECTION_VARIABLE: "0", LIMITS_VARIABLE: ""}
    return {INJECTION_VARIABLE: "1", LIMITS_VARIABLE: json.dumps(asdict(limits), sort_keys=True)}


def read_activation(environment: Mapping[str, str]) -> RepeatTerminateConfig | None:
    """The limits in a server's environment; None where no guard is asked for. Raises `ActivationError`."""
    switch = environment.get(INJECTION_VARIABLE, "")
    if switch in ("", "0"):
        return None
    if switch != "1":
        raise ActivationError(f"{INJECTION_VARIABLE} is {switch!r}; write 1, or leave it unset")
    text = environment.get(LIMITS_VARIABLE)
    if text is None:
        raise ActivationError(f"{INJECTION_VARIABLE} is 1 and {LIMITS_VARIABLE} is not set; {_ADVICE}")
    try:
        limits = RepeatTerminateConfig(**check(_SCHEMA, json.loads(text)))
    except (ValueError, ContractViolation) as error:
        raise ActivationError(f"{LIMITS_VARIABLE}: {error}; {_ADVICE}") from error
    if not limits.enabled:
        raise ActivationError(f"{LIMITS_VARIABLE} has enabled: false, and {INJECTION_VARIABLE} is 1; {_ADVICE}")
    return limits
