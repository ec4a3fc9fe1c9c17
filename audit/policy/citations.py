"""Whether texts cite what a plain clone does not have. A checkout in, citations of documents and folders elsewhere out.

POLICY-050. Every text that git lists is read, except the requirements, which are kept as they were first stated, and
the contract that lists the names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from audit.policy.source import Violation
from audit.tree import listed_files
from coordexp.spec import check, contract_path, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = "contracts/architecture/names.yaml"
AS_STATED = "contracts/requirements/"
# A folder beside the checkout, and the folders that people and machines work in; /tmp and /data serve as examples.
BESIDE = re.compile(r"(?<![\w./])(?:\.\./)+shared/")
ABSOLUTE = re.compile(r"(?<![\w.>})$*-])/(?:work|home|root|Users)/(?=[\w.-])")
ADVICE = "say the fact itself, or cite a requirement or an invariant by its id"


def load_elsewhere() -> tuple[str, ...]:
    """Names of documents that are not part of the repository, from contracts/architecture/names.yaml."""
    return tuple(check("names", read_yaml(contract_path("architecture/names.yaml")))["elsewhere"])


def outside_citations(shown: str, text: str, elsewhere: tuple[str, ...]) -> Iterator[Violation]:
    """Lines of the file `shown` that cite a document or a folder that a plain clone does not have."""
    spellings = "|".join(name.replace("-", r"[-_\s]?") for name in elsewhere)
    documents = re.compile(rf"(?<![A-Za-z])(?:{spellings})(?![A-Za-z])", re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), start=1):
        if found := documents.search(line):
            yield Violation(shown, number, f"{found[0]!r} is not in this repository: {ADVICE}")
        if found := BESIDE.search(line) or ABSOLUTE.search(line):
            yield Violation(
                shown, number, f"{found[0]!r} is no place in a plain clone: write a path inside the checkout"
            )


def cited_outside(root: Path) -> list[Violation]:
    """What the texts of a checkout cite that is not in it."""
    elsewhere, found = load_elsewhere(), list[Violation]()
    for path in listed_files(root):
        if path == NAMES or path.startswith(AS_STATED):
            continue
        content = (root / path).read_bytes()
        # A binary file (weights, pictures) has zero bytes; what a picture shows is looked at by people.
        if b"\0" not in content:
            found.extend(outside_citations(path, content.decode("utf-8", errors="replace"), elsewhere))
    return found
