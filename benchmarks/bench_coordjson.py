"""CoordJSON text to objects, fully validated, against regex substitution and json.loads of the same text,
unvalidated.

Rounds of both alternate in one process and their median CPU times are compared, which other processes do not disturb.
The reference comes in two forms: with a replacement string (`r"\\1"`, as usually written; the bar is against it) and
with a function, which Python runs faster.
"""

from __future__ import annotations

import json
import random
import re
import statistics
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from coordexp.coordjson import parse_answer, render_answer, scan_answer
from coordexp.coords.types import CoordObject

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECTS, ROUNDS, BAR = 60, 40, 1.0
NAMES = ("person", "black cat", "traffic light", "stop sign", "dining table")
_TOKEN = re.compile(r"<\|coord_(\d+)\|>")


def build_text(count: int = OBJECTS) -> str:
    """A canonical answer of `count` boxes, about 95 bytes each."""
    draw = random.Random(0)
    objects = []
    for _ in range(count):
        (x1, x2), (y1, y2) = (sorted(draw.sample(range(1000), 2)) for _ in range(2))
        objects.append(CoordObject(draw.choice(NAMES), "bbox_2d", (x1, y1, x2, y2)))
    return render_answer(objects)


def reference(text: str) -> Any:
    """Bare coord tokens become integers by a replacement string, then json.loads."""
    return json.loads(_TOKEN.sub(r"\1", text))


def reference_with_function(text: str) -> Any:
    """The same with a replacement function."""
    return json.loads(_TOKEN.sub(lambda match: match[1], text))


def run() -> dict[str, Any]:
    """Megabytes per second of each path, and `parse_answer` over the reference; `passes` compares with the bar."""
    text = build_text()
    paths: dict[str, Callable[[str], Any]] = {
        "reference": reference,
        "reference, function": reference_with_function,
        "parse_answer": parse_answer,
        "scan_answer": scan_answer,
    }
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, path in paths.items():
            start = time.process_time()
            for _ in range(20):
                path(text)
            seconds[name].append((time.process_time() - start) / 20)
    speed = {name: len(text.encode()) / statistics.median(taken) / 1e6 for name, taken in seconds.items()}
    ratio = speed["parse_answer"] / speed["reference"]
    table = Table("path", "MB/s", "x reference", title=f"CoordJSON to objects, {len(text.encode())} bytes")
    for name, rate in speed.items():
        table.add_row(name, f"{rate:.1f}", f"{rate / speed['reference']:.2f}")
    Console().print(table)
    return {"bytes": len(text.encode()), "mb_per_s": speed, "ratio": ratio, "bar": BAR, "passes": ratio >= BAR}


if __name__ == "__main__":
    run()
