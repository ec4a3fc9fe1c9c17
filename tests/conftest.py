"""Settings of every test: the hypothesis profile, which COORDEXP_HYPOTHESIS names, shared models, recording."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

import coordexp  # noqa: F401  (makes torchvision importable before a test module imports peft or transformers)

pytest_plugins = ["audit.recording", "audit.gpu.recording"]
if (Path(__file__).parent / "plugins" / "models.py").is_file():
    pytest_plugins += [
        "tests.plugins.models",
        "tests.plugins.stage1",
        "tests.plugins.stage2",
        "tests.plugins.receivers",
        "tests.plugins.client_bench",
        "tests.plugins.live_server",
        "tests.plugins.launches",
        "tests.plugins.demo",
        "tests.plugins.exported",
        "tests.plugins.left",
    ]

_TOLERATED = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("fast", max_examples=20, deadline=None, suppress_health_check=_TOLERATED)
settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=_TOLERATED
)
settings.register_profile("thorough", max_examples=2000, deadline=None, suppress_health_check=_TOLERATED)
# Thousands of runs that only ask whether something fails: no search for the smallest example.
settings.register_profile(
    "mutants", settings.get_profile("ci"), max_examples=15, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile(os.environ.get("COORDEXP_HYPOTHESIS", "ci"))
