"""Parse of a rollout's token ids on the real vocabulary, beside decoding its tokens one by one, at 5 to 1,000 objects.

Rounds of both alternate in one process and their median CPU times are compared, which other processes do not disturb.
The exponent is that of time in tokens between the smallest and the largest answer. Ownership of the prefix is timed
apart: only training asks for it.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.bench_coordjson import build_text
from coordexp.coordjson import own_prefix
from coordexp.coords.vocab import build_coord_vocab
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.encode.vocabulary import END_OF_TURN, build_real_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECTS, ROUNDS, TOKENS_A_ROUND = (5, 60, 240, 1000), 15, 25_000
RATIO_BAR, EXPONENT_BAR = 0.5, 1.1


def run() -> dict[str, Any]:
    """Microseconds a token of each path, the parse over decoding, and the exponent; `passes` compares with the bars."""
    tokenizer = build_real_tokenizer()
    parser = RolloutParser(tokenizer, build_coord_vocab(tokenizer))
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    table = Table("objects", "tokens", "decode µs/token", "parse µs/token", "× decode", "owners µs/token")
    rows = []
    for count in OBJECTS:
        ids = [*tokenizer(build_text(count), add_special_tokens=False)["input_ids"], end]
        parsed = parser.parse(ids)
        if len(parsed.objects) != count or not parsed.strict:
            raise RuntimeError(f"{len(parsed.objects)} of {count} objects parsed ({parsed.failure})")
        paths: dict[str, Callable[[], Any]] = {
            "decode": lambda ids=ids: [tokenizer.decode([token]) for token in ids],
            "parse": lambda ids=ids: parser.parse(ids),
            "owners": lambda parsed=parsed: own_prefix(parsed),
        }
        micros = {name: 1e6 * taken / len(ids) for name, taken in _medians(paths, len(ids)).items()}
        rows.append({"objects": count, "tokens": len(ids), **micros, "ratio": micros["parse"] / micros["decode"]})
        cells = (micros["decode"], micros["parse"], rows[-1]["ratio"], micros["owners"])
        table.add_row(str(count), str(len(ids)), *(f"{value:.2f}" for value in cells))
    first, last = rows[0], rows[-1]
    exponent = 1 + math.log(last["parse"] / first["parse"]) / math.log(last["tokens"] / first["tokens"])
    console = Console()
    console.print(table)
    console.print(f"exponent of the parse's time in tokens: {exponent:.3f}")
    passes = exponent <= EXPONENT_BAR and all(row["ratio"] <= RATIO_BAR for row in rows)
    return {"rows": rows, "exponent": exponent, "ratio_bar": RATIO_BAR, "exponent_bar": EXPONENT_BAR, "passes": passes}


def _medians(paths: dict[str, Callable[[], Any]], tokens: int) -> dict[str, float]:
    """Median CPU seconds of one call of each path."""
    repeats = max(1, TOKENS_A_ROUND // tokens // 10)
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, path in paths.items():
            start = time.process_time()
            for _ in range(repeats):
                path()
            seconds[name].append((time.process_time() - start) / repeats)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    run()
