"""The NVIDIA devices of this machine: in, nothing; out, name, memory and driver of each, as nvidia-smi tells them.

No torch: asking must not open a context on a device that a test is about to fill.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Device:
    """A device: its name, its memory in MiB, and the driver."""

    name: str
    memory_mib: int
    driver: str


def read_devices() -> tuple[Device, ...]:
    """The devices in the driver's order; none without a driver, or with one that does not answer."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or any(len(row) != 3 or not row[1].isdecimal() for row in rows):
        return ()
    return tuple(Device(name, int(memory), driver) for name, memory, driver in rows)
