"""ms-swift's rollout app where there is no accelerator. Contract id: BRIDGE-011.

`RolloutArguments` refuses to start by counting accelerators, and for no other reason. Workers unpickle the arguments by
the name of their class, so the class stands at the top of an importable module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swift.arguments import RolloutArguments
from swift.pipelines.infer.rollout import SwiftRolloutDeploy

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class CpuRolloutArguments(RolloutArguments):  # type: ignore[misc]
    """ms-swift's arguments for workers that share the CPU."""

    def _check_device_count(self) -> None:
        """The CPU engine is no device that upstream would count."""


class CpuRolloutDeploy(SwiftRolloutDeploy):  # type: ignore[misc]
    """ms-swift's app with these arguments."""

    args_class = CpuRolloutArguments


def run_cpu_app(flags: Sequence[str]) -> None:
    """Serve until the process is told to end; `flags` are those of `swift rollout`."""
    CpuRolloutDeploy(list(flags)).main()
