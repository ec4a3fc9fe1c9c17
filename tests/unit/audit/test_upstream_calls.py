"""Keywords that the project passes are held to what upstream takes, and nothing is accepted that would break a call."""

from __future__ import annotations

import pytest
import yaml

from tests.unit.audit.upstream_fake import Fake, build_fake

CORE, CALL = "site/upstream/core.py", "coordexp/shorten.py:16"
MAKE = "import upstream.requests as r\n\nr.Request(messages=[], seed=2)\n"


@pytest.fixture
def fake(tmp_path, console) -> Fake:
    """The package as accepted; a request is made with keywords too."""
    built = build_fake(tmp_path)
    built.write("project/scripts/make.py", MAKE)
    assert built.accept(console) == 0
    assert built.texts() == []
    return built


@pytest.mark.invariant("UP-010")
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("core", ", *, strict=False", ""),
        ("core", "strict=False", "strictly=False"),
        ("core", "strict=False", "strictly=False, **rest"),
        ("core", "text, limit=10, *, strict", "text, limit=10, /, *, strict"),
        ("requests", "seed: int", "luck: int"),
    ],
)
def test_a_parameter_that_a_call_still_passes_cannot_be_accepted_away(fake, console, file, old, new):
    before = fake.recorded()
    fake.edit(f"site/upstream/{file}.py", old, new)
    (drift,) = fake.drifts()
    assert drift.refused
    assert fake.accept(console) == 1
    assert fake.recorded() == before


@pytest.mark.invariant("UP-010")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("text, limit=10, *", "text, *, limit=10"),
        ("limit=10, *, strict=False", "limit=10, strict=True"),
        ("text, limit", "letters, limit"),
    ],
)
def test_a_parameter_that_no_call_passes_by_name_or_that_still_takes_it_can_be_accepted(fake, console, old, new):
    fake.edit(CORE, old, new)
    assert fake.texts() != []
    assert fake.accept(console) == 0
    assert fake.texts() == []


@pytest.mark.invariant("UP-010")
def test_a_renamed_parameter_is_accepted_once_the_call_follows(fake, console):
    fake.edit(CORE, "strict=False", "strictly=False")
    fake.edit("project/coordexp/shorten.py", "strict=True", "strictly=True")
    (drift,) = fake.drifts()
    assert drift.changes == ("parameter strict removed", "parameter strictly added (default False)")
    assert fake.accept(console) == 0


@pytest.mark.invariant("UP-010")
@pytest.mark.parametrize(
    ("call", "symbol", "words"),
    [
        ("upstream.core.cut('a', how=1)", "upstream.core.cut", "passes how, which it does not take"),
        ("upstream.core.cut('a', limit=1); upstream.core.cut('a', how=1)", "upstream.core.cut", "passes how, which"),
        ("upstream.core.cut('a', how=1); upstream.core.cut('a', limit=1)", "upstream.core.cut", "passes how, which"),
        ("upstream.Trainer(modell=1)", "upstream.Trainer", "passes modell, which it does not take"),
        ("upstream.requests.Request(seeds=1)", "upstream.requests.Request", "passes seeds, which it does not take"),
        ("upstream.base.Base(args=1, how=2, why=3)", "upstream.base.Base", "passes how, why, which it does not take"),
    ],
)
def test_a_keyword_that_upstream_does_not_take_is_a_drift_that_is_never_accepted(fake, console, call, symbol, words):
    fake.write("project/scripts/call.py", f"import upstream\n\n{call}\n")
    (drift,) = fake.drifts()
    assert drift.symbol == symbol
    assert words in drift.changes[-1]
    assert drift.changes[-1].endswith("scripts/call.py:3")
    assert drift.refused
    assert fake.accept(console) == 1


@pytest.mark.invariant("UP-010")
def test_a_keyword_that_now_goes_into_any_is_accepted_once_the_record_is_deleted(fake, console):
    fake.edit(CORE, "*, strict=False", "**rest")
    assert fake.accept(console) == 1
    content = yaml.safe_load(fake.recorded())
    del content["symbols"]["upstream.core.cut"]
    fake.write("project/contracts/upstream/up-stream.yaml", yaml.safe_dump(content))
    assert fake.accept(console) == 0
    assert fake.texts() == []


@pytest.mark.invariant("UP-010")
def test_any_keyword_goes_where_any_is_taken(fake, console):
    fake.edit(CORE, "strict=False", "strict=False, **rest")
    fake.write("project/scripts/call.py", "import upstream\n\nupstream.core.cut('a', how=1)\n")
    assert fake.accept(console) == 0
    assert fake.texts() == []


@pytest.mark.invariant("UP-010")
@pytest.mark.parametrize(("keywords", "drifts"), [("a=1", 0), ("b=1", 0), ("a=1, b=2", 1)])
def test_the_keywords_of_a_call_fit_one_of_several_forms(fake, console, keywords, drifts):
    forms = "from typing import overload\n\n\n" + "".join(
        f"@overload\ndef cut(text, *, {name}=0): ...\n" for name in ("a", "b")
    )
    fake.write("site/upstream/forms.pyi", forms)
    fake.write("project/scripts/call.py", "from upstream.forms import cut\n\ncut('a')\n")
    assert fake.accept(console) == 0
    fake.edit("project/scripts/call.py", "'a'", f"'a', {keywords}")
    assert len(fake.drifts()) == drifts
