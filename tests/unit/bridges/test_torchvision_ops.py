"""The torchvision bridge: declares operators only where the compiled library cannot load, in every Python process."""

from __future__ import annotations

import _ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import coordexp
from coordexp.bridges import PACKAGE_PARENT, STARTUP_FOLDER, subprocess_env, torchvision_ops

SITE_PACKAGES = Path(pytest.__file__).resolve().parents[1]


@pytest.fixture
def probe_operator(monkeypatch):
    """An operator that nothing else declares, in place of torchvision's own."""
    name = f"coordexp_probe_{os.getpid()}_{len(PROBES)}"
    PROBES.append(name)
    monkeypatch.setattr(torchvision_ops, "SCHEMAS", {name: f"{name}(Tensor dets) -> Tensor"})
    return name


PROBES: list[str] = []


def is_declared(name):
    import torch

    return hasattr(torch.ops.torchvision, name)


def run_python(code, environment, cwd):
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.invariant("BRIDGE-001")
def test_operators_are_declared_where_there_is_no_library(probe_operator, tmp_path):
    assert torchvision_ops.declare_missing_operators(tmp_path, "0.28.0") == (probe_operator,)
    assert is_declared(probe_operator)


@pytest.mark.invariant("BRIDGE-001")
def test_operators_are_declared_where_the_library_cannot_load(probe_operator, tmp_path):
    (tmp_path / "_C.so").write_bytes(b"not a shared library")
    assert torchvision_ops.declare_missing_operators(tmp_path, "0.28.0") == (probe_operator,)
    assert is_declared(probe_operator)


@pytest.mark.invariant("BRIDGE-001")
def test_a_second_declaration_changes_nothing(probe_operator, tmp_path):
    assert torchvision_ops.declare_missing_operators(tmp_path, "0.28.0") == (probe_operator,)
    assert torchvision_ops.declare_missing_operators(tmp_path, "0.28.0") == ()


@pytest.mark.invariant("BRIDGE-002")
def test_nothing_is_declared_where_the_library_loads(probe_operator, tmp_path):
    (tmp_path / "_C.so").symlink_to(_ctypes.__file__)
    assert torchvision_ops.declare_missing_operators(tmp_path, "0.28.0") == ()
    assert not is_declared(probe_operator)


@pytest.mark.invariant("BRIDGE-003")
@pytest.mark.parametrize("version", ["0.27.1", "0.29.0", "1.28.0"])
def test_nothing_is_declared_for_an_unproven_release(probe_operator, tmp_path, version):
    assert torchvision_ops.declare_missing_operators(tmp_path, version) == ()
    assert not is_declared(probe_operator)


@pytest.fixture
def import_package(tmp_path, monkeypatch):
    """A function that executes a package file as torchvision of a version, through the bridge's loader."""

    def run(text, version):
        import importlib.util
        from importlib import metadata

        file = tmp_path / "__init__.py"
        file.write_text(text)
        monkeypatch.setattr(metadata, "version", lambda name: {"torchvision": version}[name])
        loader = torchvision_ops.OperatorsFirstLoader("torchvision_stand_in", str(file))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader("torchvision_stand_in", loader))
        loader.exec_module(module)
        return module

    return run


@pytest.mark.invariant("BRIDGE-001")
def test_the_loader_declares_before_the_package_runs(probe_operator, import_package):
    text = f"import torch\nfound = hasattr(torch.ops.torchvision, '{probe_operator}')\n"
    assert import_package(text, "0.28.0").found


@pytest.mark.invariant("BRIDGE-003")
def test_an_unproven_release_that_fails_over_its_operators_says_what_to_install(import_package):
    with pytest.raises(ImportError, match=r"torchvision 0\.99\.0 cannot load.*requirements/cpu\.txt"):
        import_package("raise RuntimeError('operator torchvision::nms does not exist')\n", "0.99.0")


@pytest.mark.invariant("BRIDGE-003")
@pytest.mark.parametrize(("message", "version"), [("something else", "0.99.0"), ("torchvision::nms", "0.28.0")])
def test_other_errors_of_the_package_pass_unchanged(import_package, message, version):
    with pytest.raises(RuntimeError, match=message):
        import_package(f"raise RuntimeError({message!r})\n", version)


@pytest.mark.invariant("BRIDGE-004")
def test_the_finder_is_first_once_and_answers_for_torchvision_only():
    torchvision_ops.install_finder()
    torchvision_ops.install_finder()
    assert sys.meta_path.count(torchvision_ops.FINDER) == 1
    assert torchvision_ops.FINDER.find_spec("torch", None) is None
    assert torchvision_ops.FINDER.find_spec("torchvision.transforms", None) is None
    spec = torchvision_ops.FINDER.find_spec("torchvision", [str(SITE_PACKAGES)])
    assert isinstance(spec.loader, torchvision_ops.OperatorsFirstLoader)
    assert torchvision_ops.FINDER.find_spec("torchvision", ["/nowhere"]) is None


@pytest.mark.invariant("BRIDGE-004")
def test_importing_coordexp_and_looking_torchvision_up_imports_no_torch(tmp_path):
    code = (
        "import importlib.util, sys\nimport coordexp\n"
        "assert importlib.util.find_spec('torchvision') is not None\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run_python(code, {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.invariant("BRIDGE-005")
def test_the_environment_of_a_child_leads_to_the_start_up_folder_first():
    environment = subprocess_env({"PYTHONPATH": os.pathsep.join(["/a", "", str(PACKAGE_PARENT), "/b"]), "OTHER": "1"})
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(STARTUP_FOLDER), str(PACKAGE_PARENT), "/a", "/b"]
    assert environment["OTHER"] == "1"
    assert subprocess_env(environment) == environment


@pytest.mark.invariant("BRIDGE-005")
def test_the_environment_of_a_child_begins_with_this_process(monkeypatch):
    monkeypatch.setenv("COORDEXP_HYPOTHESIS", "fast")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = subprocess_env()
    assert environment["COORDEXP_HYPOTHESIS"] == "fast"
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(STARTUP_FOLDER), str(PACKAGE_PARENT)]


@pytest.mark.invariant("BRIDGE-005")
def test_a_fresh_process_imports_the_qwen3_vl_processors(tmp_path):
    code = (
        "import sys\nassert 'coordexp' not in sys.modules and 'torch' not in sys.modules\n"
        "import torchvision.transforms.v2.functional\n"
        "from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor\n"
        "Qwen2VLImageProcessor()\n"
    )
    done = run_python(code, subprocess_env(), tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.invariant("BRIDGE-005")
def test_another_start_up_module_behind_it_still_runs_once(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.stdout.write('other ran\\n')\n")
    environment = subprocess_env({**os.environ, "PYTHONPATH": str(tmp_path)})
    done = run_python("import sys; sys.stdout.write(str('coordexp_startup' in sys.modules))", environment, tmp_path)
    assert done.stdout == "other ran\nTrue", done.stderr


@pytest.mark.invariant("BRIDGE-001")
def test_without_the_bridge_torchvision_fails_exactly_where_its_library_does(tmp_path):
    code = (
        "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if 'Torchvision' not in type(f).__name__]\n"
        "import importlib.util, pathlib, torch\n"
        "library = pathlib.Path(importlib.util.find_spec('torchvision').origin).with_name('_C.so')\n"
        "try:\n    torch.ops.load_library(library)\n    loads = True\nexcept OSError:\n    loads = False\n"
        "try:\n    import torchvision\n    works = True\nexcept RuntimeError:\n    works = False\n"
        "assert works == loads, (works, loads)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = run_python(code, environment, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_package_names_its_version():
    assert coordexp.__version__.count(".") == 2
