"""The rules that `tox -e policy` holds the tree to. Source text in, violations with file and line out. No torch."""

from __future__ import annotations

from audit.policy.rules import RULES, Rule, violations_of
from audit.policy.source import SourceFile, Violation, parse_source, read_sources

__all__ = ["RULES", "Rule", "SourceFile", "Violation", "parse_source", "read_sources", "violations_of"]
