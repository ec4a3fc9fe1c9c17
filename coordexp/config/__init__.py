"""Configurations: YAML files in, frozen typed sections out, every problem at once. No torch. Contract ids: CONFIG-*."""

from __future__ import annotations

from coordexp.config.checks import check_effective_batch, check_trainer, image_token_bound, units_per_step
from coordexp.config.hierarchy import discover_profiles
from coordexp.config.loading import load_config
from coordexp.config.paths import resolve_input, resolve_output
from coordexp.config.problems import ConfigError, Problem
from coordexp.config.trainable import build_problem, check_trainable
from coordexp.config.typed import plain_values, render_identity, render_resolved
from coordexp.config.types import Config, Sources
from coordexp.config.warnings import config_warnings

__all__ = [
    "Config",
    "ConfigError",
    "Problem",
    "Sources",
    "build_problem",
    "check_effective_batch",
    "check_trainable",
    "check_trainer",
    "config_warnings",
    "discover_profiles",
    "image_token_bound",
    "load_config",
    "plain_values",
    "render_identity",
    "render_resolved",
    "resolve_input",
    "resolve_output",
    "units_per_step",
]
