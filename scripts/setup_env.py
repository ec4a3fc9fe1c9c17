"""Make `.venv` from a lock, or say in a tenth of a second that it is current. Standard library only.

COORDEXP_LOCK=cpu|gpu chooses the lock (gpu where nvidia-smi is found, else cpu). Interrupted at any point, it goes on
where it stopped when it is run again: a stamp inside `.venv` is written last, and pip keeps what it has downloaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "coordexp-lock.sha256"
STARTUP_FOLDER = ROOT / "coordexp" / "bridges" / "startup"
PYTHONS = ((3, 11), (3, 12))
FREE_GB = {"cpu": 5.0, "gpu": 18.0}
EXPECTATION = {"cpu": "about 3.4 GB of disk and 2 to 5 minutes", "gpu": "about 14 GB of disk and 5 to 15 minutes"}
NOISE = ("WARNING: Location 'file:", "Requirement already satisfied", "Looking in ", "[notice]")
SECTION = re.compile(r"^# (torch and its own dependencies|everything else)", re.MULTILINE)

# Runs with the new environment's Python: prints each locked package that is absent or of another version.
COMPARE = """
import sys
from importlib import metadata
for pin in sys.stdin.read().split():
    name, _, wanted = pin.partition("==")
    try:
        found = metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        found = "absent"
    if found != wanted:
        print(f"{name}: locked {wanted}, installed {found}")
"""


class SetupError(Exception):
    """A reason why the environment cannot be made, with what to do."""


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"set-up: {text}\n")
    sys.stdout.flush()


def choose_lock() -> str:
    """The lock's name from COORDEXP_LOCK, or from whether there is an NVIDIA driver."""
    name = os.environ.get("COORDEXP_LOCK") or ("gpu" if shutil.which("nvidia-smi") else "cpu")
    if name not in FREE_GB:
        raise SetupError(f"COORDEXP_LOCK={name} is not a lock; use {' or '.join(sorted(FREE_GB))}")
    return name


def read_sections(lock_text: str) -> tuple[list[str], list[str]]:
    """The pins of a lock: torch with its own dependencies, and everything else."""
    parts = SECTION.split(lock_text)
    if len(parts) != 5:
        raise SetupError("the lock does not have its two sections; regenerate it with scripts/lock.py")

    def pins(text: str) -> list[str]:
        return [line for line in text.splitlines() if "==" in line and not line.startswith("#")]

    return pins(parts[2]), pins(parts[4])


def fingerprint(lock_name: str, lock_text: str) -> str:
    """What the stamp holds: it changes with the lock, with this file and with the place of the checkout."""
    parts = (lock_name, lock_text, Path(__file__).read_text(), str(ROOT))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def base_interpreter() -> str:
    """A Python 3.11 or 3.12 that is not itself a virtual environment; raises SetupError when there is none."""
    if sys.version_info[:2] in PYTHONS:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        candidate = Path(sys.base_prefix) / "bin" / f"python{version}"
        return str(candidate) if candidate.exists() else sys.executable
    for major, minor in PYTHONS:
        found = shutil.which(f"python{major}.{minor}")
        if found:
            return found
    have = ".".join(str(part) for part in sys.version_info[:3])
    raise SetupError(
        f"Python 3.11 or 3.12 is needed (the locked wheels are built for those); this is {have}, "
        "and neither python3.11 nor python3.12 is on PATH"
    )


def check_disk(lock_name: str, folder: Path) -> None:
    """Raise SetupError when the disk cannot hold what is still missing."""
    present = folder_gb(VENV) if VENV.exists() else 0.0
    needed, free = FREE_GB[lock_name] - present, shutil.disk_usage(folder).free / 1e9
    if free < needed:
        raise SetupError(f"{needed:.1f} GB more are needed in {folder}, {free:.1f} GB are free; make room")


def folder_gb(folder: Path) -> float:
    """Size on disk of the regular files below a folder, in GB."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total / 1e9


def venv_python() -> Path:
    """The environment's interpreter."""
    return VENV / "bin" / "python"


def works(python: Path) -> bool:
    """Whether an interpreter starts and has a pip."""
    if not python.exists():
        return False
    return subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def make_venv() -> None:
    """Create `.venv`, anew when what is there does not run (an interrupted creation, a removed interpreter)."""
    if works(venv_python()):
        say(f"{VENV} exists")
        return
    base = base_interpreter()
    say(f"creating {VENV} with {base}")
    subprocess.run([base, "-m", "venv", "--clear", str(VENV)], check=True)


def site_packages() -> Path:
    """The environment's site-packages."""
    return next((VENV / "lib").glob("python3.*/site-packages"))


def drop_half_installed() -> None:
    """Remove the metadata of packages whose installation was cut short, so that pip installs them again."""
    for metadata_folder in site_packages().glob("*.dist-info"):
        if not (metadata_folder / "RECORD").exists():
            say(f"{metadata_folder.name} was installed in part; installing it again")
            shutil.rmtree(metadata_folder)


def install(pins: list[str], *options: str) -> None:
    """Install pins with the environment's pip, showing counts, errors and nothing of pip's noise."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listing:
        listing.write("\n".join(pins))
        listing.flush()
        command = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
        process = subprocess.Popen(
            [*command, *options, "-r", listing.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # DeepSpeed comes as source; its kernels are compiled when they are first used, not here.
            env={**os.environ, "DS_BUILD_OPS": "0"},
        )
        last_lines = follow(process, len(pins))
    if process.wait() != 0:
        raise SetupError("pip could not install the lock; its last lines:\n" + "\n".join(last_lines))


def follow(process: subprocess.Popen[str], expected: int) -> list[str]:
    """Read pip's output to its end, print every 25th package and what pip does last, return the last lines."""
    collected, kept = 0, []
    for line in process.stdout or ():
        line = line.rstrip()
        if line.strip().startswith(NOISE) or not line:
            continue
        kept = [*kept[-19:], line]
        if line.startswith("Collecting "):
            collected += 1
            if collected % 25 == 0:
                say(f"  {collected} of {expected} packages fetched")
        elif line.startswith("Installing collected packages"):
            say(f"  unpacking {line.count(',') + 1} packages")
    return kept


def write_path_file() -> None:
    """Make the checkout importable from any folder, and its start-up hook active in every process of `.venv`."""
    lines = [str(ROOT), str(STARTUP_FOLDER), "import coordexp_startup"]
    (site_packages() / "coordexp_checkout.pth").write_text("\n".join(lines) + "\n")


def compare(pins: list[str]) -> list[str]:
    """The locked packages that are absent or of another version, one line each."""
    command = [str(venv_python()), "-I", "-c", COMPARE]
    done = subprocess.run(command, input="\n".join(pins), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def make_environment(lock_name: str, lock_text: str) -> None:
    """All steps, each of which may have been done before."""
    started = time.monotonic()
    torch_pins, other_pins = read_sections(lock_text)
    check_disk(lock_name, ROOT)
    say(f"lock requirements/{lock_name}.txt: {len(torch_pins) + len(other_pins)} packages, {EXPECTATION[lock_name]}")
    make_venv()
    drop_half_installed()
    say(f"1 of 3: torch and its own dependencies ({len(torch_pins)} pins; 190 MB for a CPU build)")
    install(torch_pins, "-c", str(ROOT / "requirements" / f"{lock_name}.txt"))
    say(f"2 of 3: everything else ({len(other_pins)} packages, without dependency resolution)")
    install(other_pins, "--no-deps", "--no-build-isolation")
    say("3 of 3: the checkout's own path, and a comparison with the lock")
    write_path_file()
    differences = compare(torch_pins + other_pins)
    if differences:
        raise SetupError("the installed packages are not the locked ones:\n" + "\n".join(differences))
    STAMP.write_text(fingerprint(lock_name, lock_text) + "\n")
    say(f"done: {folder_gb(VENV):.1f} GB in {VENV}, {(time.monotonic() - started) / 60:.1f} minutes")


def main() -> int:
    """Set up under a lock file, so that two runs do not meet; the exit code."""
    try:
        name = choose_lock()
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        if STAMP.exists() and STAMP.read_text().strip() == fingerprint(name, text):
            return 0
        with (ROOT / ".setup.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not (STAMP.exists() and STAMP.read_text().strip() == fingerprint(name, text)):
                make_environment(name, text)
    except SetupError as error:
        sys.stderr.write(f"set-up: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nset-up: interrupted; run it again and it goes on from here\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
