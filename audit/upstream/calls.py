"""Keywords of calls against recorded signatures: in, a record and the names a call passes; out, those it does not
take. Contract ids: UP-*."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.upstream.drift import read_forms

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from audit.upstream.describe import Record

_BY_NAME = {"positional or keyword", "keyword-only"}


def refused_keywords(record: Record, keywords: Collection[str]) -> list[str]:
    """Keywords that the call's best form does not take; none where the record has no form or the form takes any."""
    left = [[] if takes_any else [k for k in keywords if k not in names] for names, takes_any in _forms(record)]
    return min(left, key=len, default=[])


def lost_keywords(old: Record, new: Record) -> set[str]:
    """Parameters that could be passed by name and no longer can; `**kwargs` in their place would swallow them."""
    before, after = ({name for names, _ in _forms(record) for name in names} for record in (old, new))
    return before - after


def _forms(record: Record) -> Iterator[tuple[set[str], bool]]:
    """For each way to call it: names of parameters, and whether any other name goes too."""
    for parameters in read_forms(record):
        names = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
        yield names, any(parameter.name.startswith("**") for parameter in parameters)
    if "signature" not in record and "fields" in record:
        yield set(record["fields"]), False
