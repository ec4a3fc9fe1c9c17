"""Types of command-line arguments that commands of the audit share: a text in, a value or argparse's error out."""

from __future__ import annotations

import argparse


def positive_int(text: str) -> int:
    """A number of at least 1 on a command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
