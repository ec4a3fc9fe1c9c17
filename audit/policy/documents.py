"""Whether documents tell the truth: every path, module, command, key, metric and link they name exists. POLICY-015.

Markdown text and a checkout in, violations out. Code (fences, indented lines, `spans`, elements of HTML) is read for
names and words; prose for names that are one without backticks: places, commands, variables, keys, metrics, ids.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from audit.policy.commands import broken_commands, broken_tools
from audit.policy.examples import wrong_examples
from audit.policy.mentions import MIGRATION, wrong_ids, wrong_keys, wrong_metrics
from audit.policy.places import broken_places
from audit.policy.source import Violation
from audit.policy.words import unknown_words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from audit.policy.checkout import Checkout

FENCE = re.compile(r"^(```|~~~)")
SPAN = re.compile(r"`([^`]+)`")
# Markdown's links, its reference links, HTML's: each with a target and an anchor, either of which may be empty.
LINK = re.compile(
    r"\]\(<?([^)>#:\s]*)(?:#([^)>\s]*))?>?(?: [^)]*)?\)"
    r"|^\[[^\]]+\]: *([^#:\s]*)(?:#(\S*))?$"
    r"|(?:href|src)=\"([^#:\"]*)(?:#([^\"]*))?\""
)
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
ANCHOR = re.compile(r"(?:id|name)=\"([^\"]+)\"")
VARIABLE = re.compile(r"\b(COORDEXP_[A-Z_]+|ROOT_IMAGE_DIR)\b")
ELEMENT = re.compile(r"<(code|pre|kbd|samp|tt)\b[^>]*>(.*?)</\1>")
BLOCK = re.compile(r"<(/?)pre\b[^>]*>")
TARGET = re.compile(r"\]\([^)]*\)|^\[[^\]]+\]: *\S+$|(?:href|src)=\"[^\"]*\"")
TAG = re.compile(r"</?(?:a|b|br|div|em|i|img|kbd|li|ol|p|strong|sub|sup|table|td|th|tr|ul)\b[^>]*>")
ADDRESS = re.compile(r"\w+://[^\s)>]+")
STOP = re.compile(r"[.,;:!?…]+(?=[\s)\]|\"'»”]|$)")
"""Punctuation that ends a word of prose and is no part of the name before it."""
EMPHASIS = re.compile(r"\*+|(?<!\w)_+|_+(?!\w)")


def pieces(text: str) -> Iterator[tuple[int, str, bool]]:
    """Line number and text of each piece of a document, and whether it is set as code.

    Code is every fenced or indented line, what stands between `pre` tags, and each code span and `code` element of
    any other line; what such a line has besides is prose.
    """
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        block = BLOCK.findall(line)
        if FENCE.match(line.strip()):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield number, BLOCK.sub("", line), True
        else:
            yield from ((number, span, True) for span in SPAN.findall(line))
            rest = SPAN.sub(" ", line)
            yield from ((number, code, True) for _, code in ELEMENT.findall(rest))
            yield number, prose(ELEMENT.sub(" ", rest)), False
        if block:
            fenced = not block[-1]


def prose(line: str) -> str:
    """A line without what is not said in words: link targets, addresses, tags, emphasis, punctuation after a word."""
    words = EMPHASIS.sub(" ", TAG.sub(" ", ADDRESS.sub(" ", TARGET.sub("]", line))))
    return STOP.sub(" ", words)


def broken_names(checkout: Checkout, said: str, folder: Path) -> Iterator[str]:
    """What a piece of code or prose names that does not exist: places, commands, environment variables."""
    plain = ADDRESS.sub(" ", said)
    yield from broken_places(checkout.root, checkout.vocabulary, plain, folder)
    yield from broken_commands(checkout, plain)
    for name in VARIABLE.findall(said):
        if name not in checkout.variables:
            yield f"{name} is not in contracts/cli/environment.yaml"


def broken_links(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Relative links that lead nowhere, to a file or to a heading; Markdown's, reference links, and HTML's."""
    for number, line in enumerate(text.splitlines(), start=1):
        for groups in LINK.findall(SPAN.sub("", line)):
            target = next((part for part in groups[::2] if part), "")
            anchor = next((part for part in groups[1::2] if part), "")
            file = path.parent / target if target else path
            if not file.exists():
                yield number, f"the link {target} leads nowhere"
            elif anchor and file.suffix == ".md":
                words = text if file == path else file.read_text(encoding="utf-8")
                if anchor not in anchors(words):
                    yield number, f"the link {target}#{anchor} leads to no heading"


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text, as GitHub makes them out of its headings, and those that it writes itself."""
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in HEADING.findall(text)]
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}
    return made | set(ANCHOR.findall(text))


def drift(checkout: Checkout, path: Path, text: str) -> list[Violation]:
    """Everything a document names that does not exist."""
    shown = path.relative_to(checkout.root).as_posix()
    found = [*broken_links(path, text), *wrong_examples(checkout.root, text), *wrong_ids(text)]
    for line, said, is_code in pieces(text):
        complaints = [*broken_names(checkout, said, path.parent), *wrong_keys(said, shown), *wrong_metrics(said)]
        if is_code:
            complaints += broken_tools(checkout, said)
        # A word is complained about where nothing more exact was.
        if is_code and not complaints and line not in {known for known, _ in found}:
            complaints += unknown_words(checkout.vocabulary, said, migration=shown == MIGRATION)
        found += [(line, message) for message in complaints]
    return sorted({Violation(shown, line, message) for line, message in found})


def documents(root: Path) -> list[Path]:
    """The Markdown files of a checkout that people read: at its root, in docs/ and beside the fixtures."""
    return sorted({*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "fixtures").rglob("*.md")})
