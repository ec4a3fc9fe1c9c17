"""Validation of 20,000 JSONL records against json.loads alone on the same lines, which checks nothing.

Rounds alternate in one process and their median CPU times are compared. Both sides keep what they decoded, as a data
set does (the bar), or throw it away line by line; no image is opened.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from typing import TYPE_CHECKING

from rich.console import Console

from coordexp.coords.codec import render_coord_token
from coordexp.data.records import build_record, check_line

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS, OBJECTS, ROUNDS = 20_000, 136_729, 5
REFERENCE = "json.loads, kept"
DESCS = ("person", "dining table", "traffic light", "red circle", "cell phone", "black cat", "WBC", "kite")


def build_lines(seed: int) -> list[bytes]:
    """`RECORDS` lines that hold `OBJECTS` boxes together, in the form that cooking writes."""
    rng = random.Random(seed)
    counts = [0] * RECORDS
    for _ in range(OBJECTS):
        counts[rng.randrange(RECORDS)] += 1
    lines = []
    for number, count in enumerate(counts):
        objects = []
        for _ in range(count):
            x1, x2 = sorted(rng.sample(range(1000), 2))
            y1, y2 = sorted(rng.sample(range(1000), 2))
            objects.append({"desc": rng.choice(DESCS), "bbox_2d": [render_coord_token(k) for k in (x1, y1, x2, y2)]})
        record = {"images": [f"images/{number:012d}.jpg"], "width": 640, "height": 480, "objects": objects}
        lines.append(json.dumps(record | {"metadata": {"image_id": number}}).encode("utf-8"))
    return lines


def run() -> dict[str, float]:
    """Print and return records a second of each contender, and the ratio of validation to json.loads, results kept."""
    lines = build_lines(seed=0)
    texts = [line.decode("utf-8") for line in lines]
    contenders: dict[str, Callable[[], object]] = {
        REFERENCE: lambda: [json.loads(text) for text in texts],
        "json.loads, thrown away": lambda: [None for text in texts if json.loads(text) is None],
        "validate, kept": lambda: [check_line(line, "x:1") for line in lines],
        "validate, thrown away": lambda: [None for line in lines if check_line(line, "x:1") is None],
        "validate and build, kept": lambda: [build_record(check_line(line, "x:1"), "x:1") for line in lines],
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            start = time.process_time()
            contender()
            seconds[name].append(time.process_time() - start)
    rates = {name: RECORDS / statistics.median(values) for name, values in seconds.items()}
    console = Console()
    for name, rate in rates.items():
        console.print(f"{name:26s} {rate:10,.0f} records/s  {rate / rates[REFERENCE]:5.2f} x")
    return {**rates, "ratio": rates["validate, kept"] / rates[REFERENCE]}


if __name__ == "__main__":
    run()
