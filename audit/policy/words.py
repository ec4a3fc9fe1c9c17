"""Words that documents set as code and that nothing in a checkout uses, and its file names. POLICY-015.

A checkout in, its words out; then a piece of code in, complaints out. Documents and tests lend no words: a word that
only they have is what a change has left behind.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from audit.policy.mentions import meant
from audit.policy.places import DATA, SOURCES, WRITTEN
from audit.tree import listed_files
from coordexp.metrics.table import read_metric_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIXES = (".py", ".yaml", ".json", ".toml", ".ini", ".sh", ".in", ".txt", ".j2", ".html")
WORDLESS = ("tests/", "docs/", "fixtures/")
WORD = re.compile(r"[A-Za-z_]\w{2,}")
NAME = re.compile(r"[a-z]\w*(?:/\w+)+")
CHECKED = re.compile(r"<\|coord_\d+\|>|(?:::\w+)+")
"""Coord tokens, and the names of tests, which are looked up in their files."""
FILE = re.compile(rf"(?<![\w./-])[\w.-]*\w\.(?:{'|'.join((*SOURCES, *DATA))})(?!\w)")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of a checkout, those of its paths included, and its names with slashes (metrics, routes, paths).

    `files` are the names of its files and of those that its code writes or reads; `removed` are the words that a schema
    has only to refuse them.
    """

    words: frozenset[str]
    names: frozenset[str]
    files: frozenset[str]
    removed: frozenset[str]


def read_vocabulary(root: Path) -> Vocabulary:
    """Every word of the files that do something: code, contracts, configurations, pins."""
    words: set[str] = set()
    # Keys of the objective are put together from the contracts of its modules.
    names: set[str] = set(read_metric_table())
    files: set[str] = set()
    removed: set[str] = set()
    for path in listed_files(root):
        words.update(WORD.findall(path))
        # A template is written as what it renders.
        files.update((PurePosixPath(path).name, PurePosixPath(path).name.removesuffix(".j2")))
        names.update(str(parent) for parent in (PurePosixPath(path), *PurePosixPath(path).parents))
        if path.endswith(SUFFIXES) and not path.startswith(WORDLESS):
            text = (root / path).read_text(encoding="utf-8")
            if path.startswith("contracts/") and path.endswith(".json"):
                removed.update(WORD.findall(text))
                text = json.dumps(_without_removed(json.loads(text)), ensure_ascii=False)
            words.update(WORD.findall(text))
            names.update(NAME.findall(text))
            files.update(FILE.findall(text))
    return Vocabulary(frozenset(words), frozenset(names), frozenset(files), frozenset(removed - words))


def _without_removed(content: Any) -> Any:
    """A schema without the keys that it names only to refuse them."""
    if isinstance(content, dict):
        return {key: _without_removed(value) for key, value in content.items() if not key.startswith("x-removed")}
    return [_without_removed(item) for item in content] if isinstance(content, list) else content


def unknown_words(vocabulary: Vocabulary, code: str, migration: bool = False) -> Iterator[str]:
    """Words of one piece of code that occur nowhere, and names with slashes that are no path, metric or route.

    Where a `migration` is told, removed words are at home.
    """
    if NAME.fullmatch(code) and code not in vocabulary.names and code.split("/")[0] not in WRITTEN:
        yield f"{code} is no path and no metric{meant(code, sorted(vocabulary.names))}"
        return
    known = vocabulary.words | vocabulary.removed if migration else vocabulary.words
    for word in WORD.findall(CHECKED.sub("", code)):
        if word not in known:
            # In an order of its own: words that differ by case alone replace each other.
            yield f"nothing in the checkout is called {word}{meant(word, sorted(vocabulary.words))}"
