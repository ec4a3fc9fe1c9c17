"""What encoding refuses. Contract ids: ENC-*."""

from __future__ import annotations


class EncodeError(ValueError):
    """A record that cannot be encoded as it stands, named by its source, or a template that writes otherwise."""
