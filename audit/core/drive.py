"""Runs mutmut in the current folder: without names on standard input it writes the mutants, with names it judges them.

A program of its own, started by `audit.core.campaign`: mutmut changes the working folder, sys.path and os.environ.
"""

from __future__ import annotations

import sys

import mutmut.__main__ as mutmut
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir


def main() -> None:
    """`drive.py JOBS < names`."""
    jobs, names = int(sys.argv[1]), sys.stdin.read().split()
    if names:
        mutmut.cli(["run", "--max-children", str(jobs), *names])
    else:
        copy_src_dir()
        copy_also_copy_files()
        mutmut.create_mutants(jobs)


if __name__ == "__main__":
    main()
