"""Import order, light packages, and no network while anything is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from audit.policy.names import READING_ORDER
from audit.policy.startup import HEAVY, LIGHT

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(root):
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [*command, "--no-cache"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.invariant("POLICY-004")
def test_import_linter_keeps_the_reading_order():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.invariant("POLICY-004")
@pytest.mark.parametrize(
    ("module", "text", "broken"),
    [
        ("config/first.py", "from coordexp.entrypoints import last\n", "Reading order is import order"),
        ("config/first.py", "def f():\n    import coordexp.entrypoints\n", "Reading order is import order"),
        ("config/first.py", "from coordexp.bridges import deep\n", "Light packages reach no heavy one"),
        ("bridges/first.py", "import audit\n", "The runtime does not know its audit"),
        ("grab/first.py", "", "Reading order is import order"),
    ],
)
def test_import_linter_breaks_on_a_planted_import(tmp_path, module, text, broken):
    for package in (*READING_ORDER, Path(module).parts[0]):
        (tmp_path / "coordexp" / package).mkdir(parents=True, exist_ok=True)
        (tmp_path / "coordexp" / package / "__init__.py").touch()
    (tmp_path / "coordexp" / "__init__.py").touch()
    (tmp_path / "coordexp" / "entrypoints" / "last.py").touch()
    (tmp_path / "coordexp" / "bridges" / "deep.py").write_text("def f():\n    import torch\n")
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    before = lint_imports(tmp_path)
    (tmp_path / "coordexp" / module).write_text(text)
    after = lint_imports(tmp_path)
    if module != "grab/first.py":
        assert before.returncode == 0, before.stdout
    assert after.returncode == 1
    assert re.search(re.escape(broken) + r"[^\n]*BROKEN", re.sub(r"\n(?=\S*[^\n]*(BROKEN|KEPT))", " ", after.stdout))


@pytest.mark.invariant("POLICY-004")
def test_the_linter_the_rule_and_the_document_have_one_order():
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert tuple(layer.strip("()") for layer in reversed(linter)) == READING_ORDER
    table = re.findall(r"^\| `(\w+)/` \|", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    assert tuple(name for name in table if name in READING_ORDER) == READING_ORDER
    packages = {path.parent.name for path in (ROOT / "coordexp").glob("*/__init__.py")}
    assert packages <= set(READING_ORDER)


@pytest.mark.invariant("POLICY-021")
def test_the_linter_and_the_rule_have_one_list_of_light_and_of_heavy_packages():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["id"] == "light-packages")
    assert sorted(contract["forbidden_modules"]) == sorted(HEAVY)
    assert sorted(contract["source_modules"]) == sorted(f"coordexp.{package}" for package in LIGHT)
    assert {"torch", "transformers", "swift", "vllm", "deepspeed", "accelerate", "peft", "safetensors"} <= set(HEAVY)


def modules_of(package):
    folder = ROOT / "coordexp" / package
    files = [path for path in sorted(folder.rglob("*.py")) if "startup" not in path.parts]
    return [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]


def run_python(code):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def loaded_heavy(modules, before=""):
    code = f"import importlib, sys\n{before}\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
    code += f"sys.stdout.write(','.join(sorted(set({HEAVY!r}) & set(sys.modules))))\n"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.invariant("POLICY-021")
@pytest.mark.parametrize("package", LIGHT)
def test_a_light_package_imports_nothing_heavy(package):
    assert loaded_heavy(modules_of(package)) == ""


@pytest.mark.invariant("POLICY-021")
def test_a_heavy_import_would_be_noticed():
    assert "torch" in loaded_heavy(["coordexp.spec"], before="import torch").split(",")


@pytest.mark.invariant("POLICY-021")
def test_entry_points_import_nothing_heavy_before_they_parse():
    assert loaded_heavy(modules_of("entrypoints")) == ""


# Ends the process at once: an exception could be swallowed on its way up.
BLOCK_NETWORK = """
import os, socket, sys, traceback
def refuse(*arguments, **options):
    traceback.print_stack()
    sys.stderr.write("network at import: " + repr(arguments[:2]))
    sys.stderr.flush()
    os._exit(1)
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = refuse
socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.mark.invariant("POLICY-022")
@pytest.mark.slow
def test_no_module_reaches_for_the_network_when_it_is_imported():
    modules = [name for package in READING_ORDER for name in modules_of(package)]
    imports = f"import importlib\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
    done = run_python(f"{BLOCK_NETWORK}\n{imports}")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.invariant("POLICY-022")
def test_a_connection_at_import_would_be_noticed():
    done = run_python(f"{BLOCK_NETWORK}\nimport urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')")
    assert (done.returncode, "network at import" in done.stderr) == (1, True)


@pytest.mark.invariant("POLICY-022")
def test_a_connection_whose_failure_is_swallowed_would_be_noticed():
    code = "import socket\ntry:\n    socket.getaddrinfo('localhost', 80)\nexcept BaseException:\n    pass"
    assert run_python(f"{BLOCK_NETWORK}\n{code}").returncode == 1
