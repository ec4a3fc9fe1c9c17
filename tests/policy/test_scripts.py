"""Shell scripts are thin and parse; set-up resumes, refuses in words, and knows when it is done."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from audit.policy.shell import scripts, shell_violations
from scripts import lock, setup_env

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.invariant("POLICY-016")
@pytest.mark.parametrize("script", scripts(ROOT), ids=lambda path: path.name)
def test_a_shipped_script_is_thin(script):
    assert [str(violation) for violation in shell_violations(ROOT, script)] == []


@pytest.mark.invariant("POLICY-016")
def test_every_promised_script_is_there():
    assert {"setup.sh", "test.sh", "train.sh", "quickstart.sh", "run"} <= {path.name for path in scripts(ROOT)}


@pytest.mark.invariant("POLICY-016")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("set -euo pipefail\nif true; then\n", "bash cannot parse it"),
        ("echo hello\n", "it lacks set -euo pipefail"),
        ("set -euo pipefail\n" + "true\n" * 30, "31 lines of code, 30 are allowed"),
        ("set -euo pipefail\nwhile true; do true; done\n", "logic in shell"),
        ("set -euo pipefail\npython3 -c 'x = 1'\n", "logic in shell"),
        ("set -euo pipefail\nhelper() { true; }\n", "logic in shell"),
    ],
)
def test_a_planted_script_is_refused(tmp_path, text, complaint):
    (tmp_path / "planted.sh").write_text(text)
    found = [violation.message for violation in shell_violations(tmp_path, tmp_path / "planted.sh")]
    assert len(found) == 1
    assert complaint in found[0]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An empty `.venv` in a folder of its own, for the functions of set-up."""
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    monkeypatch.setattr(setup_env, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup_env, "STAMP", tmp_path / ".venv" / "stamp")
    return packages


@pytest.mark.invariant("POLICY-019")
def test_a_package_that_was_installed_in_part_is_installed_again(environment):
    for name, files in {"whole-1.0.dist-info": ("METADATA", "RECORD"), "part-1.0.dist-info": ("METADATA",)}.items():
        (environment / name).mkdir()
        for file in files:
            (environment / name / file).touch()
    setup_env.drop_half_installed()
    assert [path.name for path in environment.iterdir()] == ["whole-1.0.dist-info"]


@pytest.mark.invariant("POLICY-019")
def test_an_environment_that_does_not_run_is_made_anew(environment, monkeypatch):
    started = []
    monkeypatch.setattr(setup_env.subprocess, "run", lambda command, **_: started.append(command))
    setup_env.make_venv()
    assert [command[1:] for command in started] == [["-m", "venv", "--clear", str(setup_env.VENV)]]


@pytest.mark.invariant("POLICY-019")
def test_a_current_environment_is_left_alone_and_a_changed_lock_is_not(environment, monkeypatch):
    made = []
    monkeypatch.setattr(setup_env, "make_environment", lambda name, text: made.append(name))
    monkeypatch.setenv("COORDEXP_LOCK", "cpu")
    text = (ROOT / "requirements" / "cpu.txt").read_text()
    setup_env.STAMP.write_text(setup_env.fingerprint("cpu", text) + "\n")
    assert (setup_env.main(), made) == (0, [])
    setup_env.STAMP.write_text(setup_env.fingerprint("cpu", text + "more==1\n") + "\n")
    assert (setup_env.main(), made) == (0, ["cpu"])


@pytest.mark.invariant("POLICY-019")
def test_an_interruption_says_how_to_go_on(environment, monkeypatch, capsys):
    def interrupted(name, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "make_environment", interrupted)
    assert setup_env.main() == 130
    assert "run it again and it goes on from here" in capsys.readouterr().err


@pytest.mark.invariant("POLICY-019")
def test_the_wrong_python_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    with pytest.raises(setup_env.SetupError, match=r"Python 3\.11 or 3\.12 is needed .* this is 3\.9\.1"):
        setup_env.base_interpreter()


@pytest.mark.invariant("POLICY-019")
def test_another_suitable_python_is_taken(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 14, 0))
    monkeypatch.setattr(setup_env.shutil, "which", {"python3.12": "/usr/bin/python3.12"}.get)
    assert setup_env.base_interpreter() == "/usr/bin/python3.12"


@pytest.mark.invariant("POLICY-019")
def test_a_full_disk_is_refused_before_anything_is_installed(environment, monkeypatch, tmp_path):
    usage = types.SimpleNamespace(free=2.5e9)
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(setup_env.SetupError, match=r"5\.0 GB more are needed in .* 2\.5 GB are free"):
        setup_env.check_disk("cpu", tmp_path)
    usage.free = 6e9
    assert setup_env.check_disk("cpu", tmp_path) is None


@pytest.mark.invariant("POLICY-019")
def test_an_unknown_lock_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("COORDEXP_LOCK", "tpu")
    assert setup_env.main() == 1
    assert capsys.readouterr().err == "set-up: COORDEXP_LOCK=tpu is not a lock; use cpu or gpu\n"


@pytest.mark.invariant("POLICY-019")
def test_noise_is_dropped_and_errors_are_kept(capsys):
    lines = ["WARNING: Location 'file:///x' is ignored", "Collecting a", "ERROR: no matching distribution", ""]
    process = types.SimpleNamespace(stdout=iter(f"{line}\n" for line in lines))
    assert setup_env.follow(process, 1) == ["Collecting a", "ERROR: no matching distribution"]
    assert "WARNING" not in capsys.readouterr().out


@pytest.mark.invariant("POLICY-019")
def test_the_checkout_is_importable_from_anywhere_and_its_hook_is_active(environment):
    setup_env.write_path_file()
    lines = (environment / "coordexp_checkout.pth").read_text().splitlines()
    assert lines == [str(ROOT), str(ROOT / "coordexp" / "bridges" / "startup"), "import coordexp_startup"]
    code = f"import site, sys\nsite.addsitedir({str(environment)!r})\n"
    code += "assert 'coordexp_startup' in sys.modules and 'torch' not in sys.modules\nimport coordexp"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.invariant("POLICY-019")
def test_the_stamp_changes_with_the_lock_and_its_name():
    prints = {setup_env.fingerprint(name, text) for name in ("cpu", "gpu") for text in ("a==1", "a==2")}
    assert len(prints) == 4
    assert all(len(value) == len(hashlib.sha256().hexdigest()) for value in prints)


@pytest.mark.invariant("POLICY-017")
def test_a_lock_is_rendered_with_torch_first_and_without_what_breaks():
    packages = {
        "torch": {"version": "2.13.0+cpu", "requires_dist": ["sympy>=1", "triton; platform_system == 'Linux'"]},
        "sympy": {"version": "1.14.0", "requires_dist": ["mpmath", "pytest; extra == 'dev'"]},
        "mpmath": {"version": "1.3.0"},
        "pytest": {"version": "9.0"},
        "triton": {"version": "3.9.0"},
        "torchaudio": {"version": "2.11.0"},
    }
    torch_pins, other_pins = setup_env.read_sections(lock.render_lock("cpu", packages))
    assert torch_pins == ["mpmath==1.3.0", "sympy==1.14.0", "torch==2.13.0"]
    assert other_pins == ["pytest==9.0"]


@pytest.mark.invariant("POLICY-017")
def test_a_lock_without_its_sections_is_refused():
    with pytest.raises(setup_env.SetupError, match="two sections"):
        setup_env.read_sections("torch==2.13.0\n")


@pytest.mark.invariant("POLICY-016")
def test_bash_is_at_hand():
    assert shutil.which("bash")
