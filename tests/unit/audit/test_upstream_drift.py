"""An upgrade of a small upstream package: each kind of change is named, with who uses what changed."""

from __future__ import annotations

import pytest

from tests.unit.audit.upstream_fake import Fake, build_fake

INFER = "route POST /infer/ was infer (response_model=None, dependencies=[self.key]), is infer"
CALLS = "  <- coordexp/shorten.py:16 calls it"


@pytest.fixture
def fake(tmp_path, console) -> Fake:
    """The package as accepted."""
    built = build_fake(tmp_path)
    assert built.accept(console) == 0
    assert built.texts() == []
    return built


@pytest.mark.invariant("UP-002")
def test_a_removed_parameter_is_a_drift_that_names_the_call_that_passes_it(fake):
    fake.edit("site/upstream/core.py", ", *, strict=False", "")
    assert fake.texts() == [f"upstream.core.cut\n  parameter strict removed\n{CALLS} and passes strict"]


@pytest.mark.invariant("UP-002")
@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("limit=10", "limit=9", "parameter limit: default 10 became default 9"),
        ("limit=10", "limit", "parameter limit: default 10 became required"),
        ("text, limit", "text, how, limit", "parameter how added (required)"),
        ("strict=False", "strict=False, how=1", "parameter how added (default 1)"),
        ("limit=10, *,", "*, limit=10,", "parameter limit was positional or keyword, is keyword-only"),
        ("text, limit=10, *, strict=False", "text, /, limit=10, *, strict=False", None),
        ("text, limit=10, *, strict", "limit=10, text=0, *, strict", "parameter text: required became default 0"),
        ("strict=False", "strict=False, **rest", "parameter **rest added (default {})"),
    ],
)
def test_a_changed_signature_is_a_drift(fake, old, new, change):
    fake.edit("site/upstream/core.py", old, new)
    change = change or "parameter text was positional or keyword, is positional-only"
    (drift,) = fake.drifts()
    assert drift.symbol == "upstream.core.cut"
    assert drift.changes[0] == change
    assert drift.users[0].startswith("coordexp/shorten.py:16 calls it")


@pytest.mark.invariant("UP-002")
def test_parameters_in_another_order_are_a_drift(fake):
    fake.edit("site/upstream/base.py", "self, model, args=None", "self, args=None, model=None")
    (changes,) = [drift.changes for drift in fake.drifts() if drift.symbol == "upstream.Trainer"]
    assert changes[-1] == "parameters were in the order self, model, args, are in the order self, args, model"


@pytest.mark.invariant("UP-002", "UP-003")
def test_a_symbol_that_moved_is_told_with_its_new_place_and_its_users(fake):
    fake.edit("site/upstream/requests.py", "class Request:", "class Another:")
    fake.write("site/upstream/protocol.py", "class Request:\n    messages = 1\n")
    (drift,) = fake.drifts()
    assert drift.symbol == "upstream.requests.Request"
    assert drift.changes == ("removed; its name is now at upstream.protocol.Request",)
    assert drift.users == (
        "coordexp/shorten.py:10 imports it",
        "coordexp/shorten.py:13 uses it",
        "coordexp/shorten.py:13 relies on it: a request is written with these fields",
    )
    assert drift.refused


@pytest.mark.invariant("UP-002")
def test_a_method_that_moved_to_another_class_is_found_there(fake):
    fake.edit("site/upstream/base.py", "def save", "def keep")
    fake.write("site/upstream/files.py", "class Writer:\n    def save(self, folder):\n        pass\n")
    (drift,) = fake.drifts()
    assert str(drift) == (
        "upstream.Trainer.save\n  removed; its name is now at upstream.files.Writer.save\n"
        "  <- benchmarks/bench_ours.py:5 overrides it"
    )
    assert not drift.refused


@pytest.mark.invariant("UP-002")
def test_a_symbol_that_is_gone_altogether_is_a_drift(fake):
    fake.edit("site/upstream/__init__.py", "LIMIT = 5", "")
    assert fake.texts() == [
        "upstream.LIMIT\n  removed; nothing of that name is left in upstream\n  <- coordexp/shorten.py:16 uses it"
    ]


@pytest.mark.invariant("UP-002")
def test_a_definition_that_moved_behind_its_name_is_a_drift(fake):
    fake.edit("site/upstream/trainer.py", "from .base", "from .roots")
    fake.write("site/upstream/roots.py", (fake.root / "site/upstream/base.py").read_text())
    changes = {drift.symbol: drift.changes for drift in fake.drifts()}
    assert changes["upstream.Trainer"] == ("bases were upstream.base.Base, are upstream.roots.Base",)
    (change,) = changes["upstream.Trainer.save"]
    assert change.startswith("moved from upstream.base.Base.save to upstream.roots.Base.save; the name")


@pytest.mark.invariant("UP-002")
@pytest.mark.parametrize(
    ("file", "old", "new", "symbol", "change"),
    [
        ("__init__", "LIMIT = 5", "LIMIT = 6", "LIMIT", "was 5, is 6"),
        ("__init__", "LIMIT = 5", "def LIMIT(): ...", "LIMIT", "kind: was constant, is function"),
        ("requests", "seed: int = 1", "seed: int = 2", "requests.Request", "field seed was int = 1, is int = 2"),
        ("requests", "    seed: int = 1\n", "", "requests.Request", "field seed removed"),
        ("requests", "int = 1", "int = 1\n    uid: str = ''", "requests.Request", "field uid added: str = ''"),
        ("requests", "=list,", "=tuple,", "requests.Request", "field images was list = list(), is list = tuple()"),
        ("server", "post('/infer/'", "put('/infer/'", "server.Server.register", "route POST /infer/ removed"),
        ("server", "(self.health)", "(self.x)", "server.Server.register", "route GET /health/ was health, is x"),
        ("server", "response_model=None, ", "", "server.Server.register", f"{INFER} (dependencies=[self.key])"),
        ("server", "[self.key]", "[]", "server.Server.register", f"{INFER} (response_model=None, dependencies=[])"),
    ],
)  # fmt: skip
def test_fields_routes_values_and_kinds_are_compared(fake, file, old, new, symbol, change):
    fake.edit(f"site/upstream/{file}.py", old, new)
    assert change in {drift.symbol: drift.changes for drift in fake.drifts()}[f"upstream.{symbol}"]


@pytest.mark.invariant("UP-002")
def test_a_new_route_is_a_drift(fake):
    added = "(self.health)\n        self.app.post('/sync/')(self.infer)"
    fake.edit("site/upstream/server.py", "(self.health)", added)
    (drift,) = fake.drifts()
    assert drift.changes[0] == "route POST /sync/ added: infer"
    assert drift.users == ("coordexp/shorten.py:1 relies on it: paths of the server that the launcher asks",)


@pytest.mark.invariant("UP-006")
def test_a_body_that_changed_behind_the_same_signature_is_a_drift(fake):
    fake.edit("site/upstream/server.py", "= [self.key]", "= [self.key]\n        print('a')")
    (drift,) = fake.drifts()
    assert drift.changes == ("its content changed; read it again and see whether what relies on it still holds",)


@pytest.mark.invariant("UP-006")
def test_a_docstring_or_a_comment_is_no_drift(fake):
    fake.edit(
        "site/upstream/server.py",
        "(self):\n        guard",
        "(self):\n        '''Adds.'''\n        # a\n        guard",
    )
    fake.edit("site/upstream/trainer.py", "Says what happened.", "Says it.")
    assert fake.texts() == []


@pytest.mark.invariant("UP-002")
def test_help_texts_of_fields_are_no_drift(fake):
    fake.edit("site/upstream/requests.py", "pictures", "images")
    assert fake.texts() == []


@pytest.mark.invariant("UP-002")
def test_another_version_is_a_drift_of_its_own(fake):
    fake.edit("site/up_stream-1.0.dist-info/METADATA", "1.0+cpu", "1.1")
    assert fake.texts() == ["upstream\n  version 1.0 became 1.1"]


@pytest.mark.invariant("UP-002")
def test_another_build_of_the_same_version_is_no_drift(fake):
    fake.edit("site/up_stream-1.0.dist-info/METADATA", "1.0+cpu", "1.0+cu130")
    assert fake.texts() == []


@pytest.mark.invariant("UP-003")
def test_a_symbol_that_many_use_names_the_first_and_counts_the_rest(fake):
    fake.write("project/coordexp/many.py", "import upstream\n" + "upstream.LIMIT\n" * 12)
    fake.edit("site/upstream/__init__.py", "LIMIT = 5", "LIMIT = 6")
    (drift,) = fake.drifts()
    assert drift.users[:2] == ("coordexp/many.py:2 uses it", "coordexp/many.py:3 uses it")
    assert drift.users[-1] == "and 5 more places"


@pytest.mark.invariant("UP-003")
def test_a_watched_symbol_names_the_line_of_the_project_s_symbol(fake):
    fake.edit("project/coordexp/shorten.py", "def shorten", "\n\ndef shorten")
    fake.edit("site/upstream/requests.py", "seed: int = 1", "seed: int = 2")
    assert "coordexp/shorten.py:15 relies on it: a request is written with these fields" in fake.drifts()[0].users


@pytest.mark.invariant("UP-007")
def test_a_name_that_must_be_absent_is_a_drift_when_it_appears(fake, console):
    fake.write("site/upstream/legacy.py", "")
    (drift,) = fake.drifts()
    assert str(drift) == "upstream.legacy\n  is there, and must not be: the old package is refused"
    assert fake.accept(console) == 1


@pytest.mark.invariant("UP-008")
def test_an_optional_package_is_skipped_with_its_reason(fake):
    fake.write("project/coordexp/engines.py", "import engine.core as e\n\ne.start(1)\n")
    fake.write("project/contracts/upstream/engine.yaml", (
        "package: engine\ndistribution: engine\nversion: '2.0'\nsymbols:\n"
        "  engine.core: {kind: module}\n  engine.core.start: {kind: function, signature: (n)}\n"
    ))  # fmt: skip
    assert fake.texts() == []
    assert fake.survey().skipped == {"engine": "only servers have an engine"}


@pytest.mark.invariant("UP-008")
def test_a_name_that_is_handed_on_from_a_skipped_package_stays_as_recorded(fake, console):
    fake.write("site/engine/__init__.py", "def start(n):\n    return n\n")
    fake.write("site/engine-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: engine\nVersion: 2.0\n")
    fake.write("site/upstream/bridge.py", "from engine import start\n")
    fake.write("project/coordexp/engines.py", "from upstream.bridge import start\n")
    assert fake.accept(console) == 0
    assert "lives: engine.start" in fake.recorded()
    (fake.root / "site/engine/__init__.py").unlink()
    assert fake.survey().skipped
    assert fake.texts() == []


@pytest.mark.invariant("UP-008")
def test_a_use_of_a_package_that_is_not_here_still_has_to_be_recorded(fake):
    fake.write("project/coordexp/engines.py", "from engine import start\n")
    (drift,) = fake.drifts()
    assert drift.changes == ("is used, but not recorded; accept it where engine is installed",)
    assert drift.users == ("coordexp/engines.py:1 imports it",)


@pytest.mark.invariant("UP-008")
def test_a_package_that_may_not_be_missing_is_a_drift(fake):
    (fake.root / "site/upstream/__init__.py").unlink()
    drifts = fake.drifts()
    assert [str(drift) for drift in drifts] == ["upstream\n  is not installed; install up-stream"]
    assert drifts[0].refused
