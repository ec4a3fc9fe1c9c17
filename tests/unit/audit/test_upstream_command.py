"""`python -m audit.upstream` from the command line: what it prints and how it ends."""

from __future__ import annotations

import shutil

import pytest

from audit.upstream.__main__ import main
from coordexp.spec import ROOT_VARIABLE, contracts_root
from tests.unit.audit.upstream_fake import Fake, build_fake


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Fake:
    """The small project as the working directory, with the schemas that its contracts are read through."""
    built = build_fake(tmp_path)
    for name in ("upstream/recorded.schema.json", "upstream/watched.schema.json", "meta/contract-schema.schema.json"):
        (built.contracts / name).parent.mkdir(exist_ok=True)
        shutil.copy(contracts_root() / name, built.contracts / name)
    monkeypatch.setenv(ROOT_VARIABLE, str(built.contracts))
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("COLUMNS", "200")
    return built


@pytest.mark.invariant("UP-005")
def test_an_upgrade_is_shown_accepted_and_then_as_recorded(fake, capsys):
    assert main(["--accept"]) == 0
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "10 symbols of 1 packages: as recorded"
    fake.edit("site/upstream/core.py", "strict=False", "strict=True")
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "up-stream 1.0",
        "  upstream.core.cut",
        "    parameter strict: default False became default True",
        "    <- coordexp/shorten.py:16 calls it",
        "engine is not installed, so nothing of it was compared: only servers have an engine",
        "10 symbols of 1 packages: 1 drifts",
    ]
    assert main(["--accept"]) == 0
    assert "wrote contracts/upstream/up-stream.yaml" in capsys.readouterr().out
    assert main([]) == 0


@pytest.mark.invariant("UP-005")
def test_the_record_of_a_package_that_is_used_no_more_is_deleted(fake, tmp_path, capsys):
    assert main(["--accept"]) == 0
    for file in (tmp_path / "project").rglob("*.py"):
        file.write_text("")
    fake.watch(watches=[], absent={})
    assert main([]) == 1
    assert main(["--accept"]) == 0
    assert "deleted contracts/upstream/up-stream.yaml" in capsys.readouterr().out
    assert main([]) == 0


@pytest.mark.invariant("UP-003")
def test_a_contract_that_cannot_be_read_is_one_line_and_exit_status_2(fake, capsys):
    fake.watch(watches=[{"symbols": ["upstream.LIMIT"]}])
    assert main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("audit.upstream: coordexp:upstream/watched at /watches/0")
    assert error.count("\n") == 1


def test_help_names_both_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--accept" in capsys.readouterr().out
