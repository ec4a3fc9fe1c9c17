"""Where the outermost closure of an answer stands, by a scan that ignores strings."""

from __future__ import annotations

import pytest

from coordexp.coordjson import find_closure

BOX = '"bbox_2d": [<|coord_1|>, <|coord_2|>, <|coord_3|>, <|coord_4|>]'


def closed(text: str) -> str | None:
    """What lies before the closure and what is in it; None without one."""
    found = find_closure(text.encode())
    if found is None:
        return None
    content = text.encode()
    return f"{content[: found[0]].decode()}⟦{content[slice(*found)].decode()}⟧"


@pytest.mark.invariant("TGT-005")
@pytest.mark.parametrize(
    ("before", "closure", "after"),
    [
        ('{"objects": [', "]}", ""),
        (f'{{"objects": [{{"desc": "cat", {BOX}}}', "]}", ""),
        (f'{{"objects": [{{"desc": "]}} ]}}", {BOX}}}', "]}", ""),
        (f'{{"objects": [{{"desc": "a \\"]}}", {BOX}}}', "]}", ""),
        (f'{{"objects": [{{"desc": "a\\\\", {BOX}}}', "]}", ""),
        (f'{{"objects": [{{"desc": "{{[", {BOX}}}', "]}", ""),
        ('{"objects": [{"desc": "红 😀", "x": {"y": [[]]}}', "]}", ""),
        ('{"objects": [', "] \n}", ""),
        ('{"objects": [', "]}", ' and {"objects": []}'),
        ('{"objects": [', "]}", "}]}"),
        ('{"objects": [1], "more": [', "]}", ""),
        ('{"objects": [{"de\nsc": "a\nb"}', "]}", ""),
    ],
)
def test_the_closure_is_found_where_braces_balance(before: str, closure: str, after: str) -> None:
    assert closed(before + closure + after) == f"{before}⟦{closure}⟧"


@pytest.mark.invariant("TGT-005")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "no braces at all",
        '{"objects": [',
        f'{{"objects": [{{"desc": "cat", {BOX}}}]',
        f'{{"objects": [{{"desc": "cat", {BOX}]}}',
        '{"objects": [{"desc": "]}',
        '{"objects": 5}',
        '} {"objects": []}',
        '{"objects": "[]"}',
    ],
)
def test_what_is_not_closed_has_none(text: str) -> None:
    assert closed(text) is None


@pytest.mark.invariant("TGT-005")
def test_a_long_answer_is_scanned_once() -> None:
    text = '{"objects": [' + '{"desc": "\\""}, ' * 100_000
    assert find_closure(text.encode()) is None
    assert find_closure((text + "{}]}").encode()) == (len(text) + 2, len(text) + 4)
