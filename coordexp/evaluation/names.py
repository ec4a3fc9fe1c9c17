"""Which category of an annotation file a description means: equal names, then names alike in writing. EVAL-091.

Enter: the descriptions of the file's categories, and answers. Leave: answers called as the file does, each renamed
prediction with what was said, and which names are no category's. Names are alike when they are equal in NFC without
case, with `_`, `-` and runs of whitespace as one space; where several categories are alike, only equal names count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from coordexp.data.texts import normalize_desc
from coordexp.evaluation.types import ImagePrediction, NameCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class CategoryNames:
    """The descriptions that are categories'. `others` are names in the file that are not evaluated: a description that
    could mean one of them as well is not taken for another's."""

    known: frozenset[str]
    others: frozenset[str] = frozenset()

    def find(self, desc: str) -> str | None:
        """The category's description that `desc` means; None where it means none, or may mean several."""
        return desc if desc in self.known else self._alike.get(loose_form(desc))

    def rename(self, answer: ImagePrediction) -> ImagePrediction:
        """`answer` with the categories' descriptions; what means none keeps its own, and is named."""
        found, unmapped = [], set()
        for one in answer.detections:
            said = one.desc if one.said is None else one.said
            name = self.find(said)
            if name is None:
                unmapped.add(said)
                name = said
            found.append(one if name == one.desc else replace(one, desc=name, said=None if name == said else said))
        return replace(answer, detections=tuple(found), unmapped=frozenset(unmapped))

    @cached_property
    def _alike(self) -> Mapping[str, str]:
        forms = Counter(loose_form(name) for name in self.known | self.others)
        return {form: name for name in self.known if forms[form := loose_form(name)] == 1 and form}


def loose_form(desc: str) -> str:
    """What is left of a name when nothing counts but its letters, digits and other signs, and where words end."""
    return normalize_desc(normalize_desc(desc).casefold().replace("_", " ").replace("-", " "))


def count_names(answers: Iterable[ImagePrediction]) -> NameCounts | None:
    """How the predictions found their category; None where nobody looked for one."""
    exact, asked = 0, False
    normalized, unmapped = Counter[str](), Counter[str]()
    for answer in answers:
        if answer.unmapped is None:
            return None
        asked = True
        for one in answer.detections:
            if one.desc in answer.unmapped:
                unmapped[one.desc] += 1
            elif one.said is not None:
                normalized[one.said] += 1
            else:
                exact += 1
    return NameCounts(exact, normalized, unmapped) if asked else None


def most_frequent(names: Mapping[str, int], count: int) -> list[tuple[str, int]]:
    """The first `count` names by how often they are there, then by name."""
    return sorted(names.items(), key=lambda item: (-item[1], item[0]))[:count]
