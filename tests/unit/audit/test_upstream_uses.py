"""What a project's source says about its use of upstream, and what accepting writes down."""

from __future__ import annotations

import pytest
import yaml

from audit.policy.source import parse_source
from audit.symbols import UnknownSymbolError
from audit.upstream.heirs import find_inherited_uses
from audit.upstream.uses import find_uses
from coordexp.spec import ContractViolation
from tests.unit.audit.upstream_fake import PROJECT, Fake, build_fake


@pytest.fixture
def fake(tmp_path, console) -> Fake:
    built = build_fake(tmp_path)
    assert built.accept(console) == 0
    return built


def used(text: str) -> set[str]:
    return {use.symbol for use in find_uses([parse_source("a.py", text)], ["torch", "up"])}


@pytest.mark.invariant("UP-001")
@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("import torch\nx: torch.Tensor", {"torch.Tensor"}),
        ("from torch.nn import functional as F\nF.pad(1)", {"torch.nn.functional", "torch.nn.functional.pad"}),
        ("def f():\n    from torch import nn\n    return nn.Linear", {"torch.nn", "torch.nn.Linear"}),
        ("import torch.distributed as dist\ndist.barrier()", {"torch.distributed", "torch.distributed.barrier"}),
        ("import torch.cuda\ntorch.cuda.synchronize()", {"torch.cuda", "torch.cuda.synchronize"}),
        ("@torch.no_grad()\ndef f(): ...\nimport torch", {"torch.no_grad"}),
        ("if TYPE_CHECKING:\n    from up import X\ndef f(a: X[int]): ...", {"up.X"}),
        ("import torch", set()),
        ("import torchvision\nfrom upper import z\ntorchvision.ops.nms", set()),
        ("from .up import y\ny.z", set()),
        ("import torch\nx.torch.zeros", set()),
        ("torch = 1\ntorch.zeros", set()),
        ("import importlib\nimportlib.import_module('up.llm')", {"up.llm"}),
        ("from importlib import import_module as load\nload('up.llm').train", {"up.llm.train"}),
        ("import importlib\nm = importlib.import_module('up.llm')\nm.train(1)", {"up.llm", "up.llm.train"}),
        ("import importlib\ntorch = importlib.import_module('torch')\ntorch.zeros", {"torch.zeros"}),
        ("__import__('up.llm')", {"up.llm"}),
        ("import importlib\nimportlib.import_module(name)\nimportlib.import_module('upper.x')", set()),
        ("import torch\ngetattr(torch, 'zeros')(1)", {"torch.zeros"}),
        ("import torch\nf = getattr(torch.nn, 'Linear').x\nf.y", {"torch.nn.Linear.x"}),
        ("import torch\ngetattr(torch, name)\ngetattr(x, 'zeros')", set()),
        ("import torch\ngetattr(torch, 'zeros', torch.ones)", {"torch.zeros", "torch.ones"}),
        ("import sys\nsys.modules['up.llm'].train", {"up.llm.train"}),
    ],
)
def test_imports_and_attribute_chains_are_uses(text, symbols):
    assert used(text) == symbols


@pytest.mark.invariant("UP-001")
def test_a_call_keeps_the_keywords_that_it_passes():
    (use,) = [use for use in find_uses([parse_source("a.py", "import up\nup.f(1, a=2, **b)")], ["up"]) if use.keywords]
    assert (use.symbol, use.line, use.keywords) == ("up.f", 2, ("a",))


@pytest.mark.invariant("UP-001")
def test_a_name_that_is_looked_up_must_be_there_unless_a_default_stands_for_it(fake, console):
    fake.write("project/scripts/new.py", "import upstream\n\ngetattr(upstream, 'cutter', None)\n")
    assert fake.texts() == []
    fake.edit("project/scripts/new.py", ", None", "")
    (drift,) = fake.drifts()
    assert (drift.symbol, drift.changes) == ("upstream.cutter", ("is used, but upstream has no such name",))
    assert fake.accept(console) == 1


@pytest.mark.invariant("UP-001", "UP-010")
def test_the_keywords_of_a_call_that_is_looked_up_are_checked(fake):
    call = "importlib.import_module('upstream.core').cut('a', how=1)"
    fake.write("project/scripts/new.py", f"import importlib\n\n{call}\n")
    (drift,) = fake.drifts()
    assert drift.changes == ("passes how, which it does not take: scripts/new.py:3",)


@pytest.mark.invariant("UP-004")
def test_what_a_deriving_class_overrides_calls_and_reads_is_a_use():
    sources = [parse_source(name, text) for name, text in PROJECT.items()]
    found = {(use.symbol.rpartition(".")[2], use.file, use.how) for use in find_inherited_uses(sources, ["upstream"])}
    assert found == {
        ("log", "coordexp/ours.py", "overrides it"),
        ("log", "coordexp/ours.py", "calls it on super()"),
        ("mine", "coordexp/ours.py", "takes it from self"),
        ("mine", "coordexp/ours.py", "overrides it"),
        ("model", "coordexp/ours.py", "takes it from self"),
        ("save", "benchmarks/bench_ours.py", "overrides it"),
    }


@pytest.mark.invariant("UP-001", "UP-004")
def test_the_record_holds_exactly_what_is_used_and_watched(fake):
    assert set(yaml.safe_load(fake.recorded())["symbols"]) == {
        "upstream.LIMIT",
        "upstream.Trainer",
        "upstream.Trainer.log",
        "upstream.Trainer.model",
        "upstream.Trainer.save",
        "upstream.core",
        "upstream.core.cut",
        "upstream.requests.Request",
        "upstream.server.Server",
        "upstream.server.Server.register",
    }


@pytest.mark.invariant("UP-001")
def test_a_new_use_is_a_drift_until_it_is_accepted(fake, console):
    fake.write("project/scripts/new.py", "from upstream.base import Base\n")
    assert fake.texts() == [
        "upstream.base.Base\n  is used, but not recorded; accept it\n  <- scripts/new.py:1 imports it"
    ]
    assert fake.accept(console) == 0
    assert fake.texts() == []


@pytest.mark.invariant("UP-001")
def test_a_use_of_what_upstream_does_not_have_cannot_be_accepted(fake, console):
    fake.write("project/scripts/new.py", "from upstream.base import Bass\n")
    before = fake.recorded()
    (drift,) = fake.drifts()
    assert drift.changes == ("is used, but upstream has no such name",)
    assert fake.accept(console) == 1
    assert fake.recorded() == before


@pytest.mark.invariant("UP-001")
def test_a_record_that_nothing_uses_is_a_drift(fake, console):
    fake.edit("project/coordexp/shorten.py", "limit=upstream.LIMIT", "limit=1")
    assert fake.texts() == ["upstream.LIMIT\n  is recorded, but nothing uses it any more"]
    assert fake.accept(console) == 0
    assert "upstream.LIMIT" not in fake.recorded()


@pytest.mark.invariant("UP-004")
def test_a_method_that_upstream_gains_under_one_of_our_names_is_a_drift(fake):
    fake.edit("site/upstream/base.py", "def save", "def mine(self):\n        pass\n\n    def save")
    (drift,) = fake.drifts()
    assert (drift.symbol, drift.changes) == ("upstream.Trainer.mine", ("is used, but not recorded; accept it",))
    assert drift.users == ("coordexp/ours.py:8 takes it from self", "coordexp/ours.py:10 overrides it")


@pytest.mark.invariant("UP-005")
def test_accepting_an_upgrade_records_it_and_shows_what_changed(fake, console):
    fake.edit("site/upstream/core.py", "limit=10", "limit=9")
    fake.edit("site/up_stream-1.0.dist-info/METADATA", "1.0+cpu", "2.0")
    assert fake.accept(console) == 0
    record = yaml.safe_load(fake.recorded())
    assert record["version"] == "2.0"
    assert record["symbols"]["upstream.core.cut"]["signature"] == "(text, limit=9, *, strict=False)"
    assert "wrote contracts/upstream/up-stream.yaml" in console.file.getvalue()
    assert fake.texts() == []


@pytest.mark.invariant("UP-005")
def test_accepting_twice_changes_nothing(fake, console):
    before = {path: path.read_bytes() for path in fake.contracts.rglob("*.yaml")}
    console.file.truncate(0)
    assert fake.accept(console) == 0
    assert "wrote" not in console.file.getvalue()
    assert {path: path.read_bytes() for path in fake.contracts.rglob("*.yaml")} == before


@pytest.mark.invariant("UP-005")
def test_accepting_leaves_what_a_person_wrote_and_packages_that_are_not_here(fake, console):
    text = "package: engine\ndistribution: engine\nversion: '2.0'\nsymbols:\n  engine.start: {kind: module}\n"
    fake.write("project/contracts/upstream/engine.yaml", text)
    fake.write("project/coordexp/engines.py", "from engine import start\n")
    watched = (fake.contracts / "upstream/watched.yaml").read_bytes()
    fake.edit("site/upstream/core.py", "limit=10", "limit=9")
    assert fake.accept(console) == 0
    assert (fake.contracts / "upstream/watched.yaml").read_bytes() == watched
    assert (fake.contracts / "upstream/engine.yaml").read_text() == text


@pytest.mark.invariant("UP-005")
def test_what_is_gone_and_still_needed_is_not_accepted(fake, console, capsys):
    fake.edit("site/upstream/core.py", "def cut", "def trim")
    before = fake.recorded()
    assert fake.accept(console) == 1
    assert fake.recorded() == before
    assert capsys.readouterr().err == (
        "audit.upstream: nothing was written; change the code, or watched.yaml, first: upstream.core.cut\n"
    )


@pytest.mark.invariant("UP-003")
def test_a_watch_that_names_no_place_of_the_project_is_refused(fake):
    watch = {"why": "a reason, long enough", "used_by": ["coordexp.shorten:gone"], "symbols": ["upstream.LIMIT"]}
    fake.watch(watches=[watch])
    fake.edit("site/upstream/__init__.py", "LIMIT = 5", "LIMIT = 6")
    with pytest.raises(UnknownSymbolError, match=r"coordexp/shorten\.py defines no 'gone'"):
        fake.drifts()


@pytest.mark.invariant("UP-003")
def test_a_watch_without_a_reason_is_refused(fake):
    fake.watch(watches=[{"used_by": ["coordexp/shorten.py"], "symbols": ["upstream.LIMIT"]}])
    with pytest.raises(ContractViolation, match="'why' is missing"):
        fake.drifts()
