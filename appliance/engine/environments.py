"""Engine environments: Python environments for builds of ONNX Runtime that exclude the box's own.

Each lies over the box's environment: what its lock names comes first, all the rest is the box's. It takes seconds to
make, and the engine's code and wire format are the same whichever of them runs it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from appliance.engine.placement import Placement
from appliance.engine.providers import PROVIDERS
from appliance.expected import OperatorError

LOCKS = Path(__file__).parent / "locks"
BOX = "box"  # The box's own environment, which is always there.
STAMP = "nukkad-lock.txt"  # Copy of the lock an environment was made from: it is made anew when that changes.


class EnvironmentFailed(OperatorError):
    """An engine environment could not be made, or is not there."""


def lockable() -> tuple[str, ...]:
    """Environments that can be installed."""
    return tuple(sorted(path.stem for path in LOCKS.glob("*.txt")))


def folder_python(root: Path, name: str) -> Path:
    """The interpreter of an environment that is installed, or of the box's own."""
    return Path(sys.executable) if name == BOX else root / name / "bin" / "python"


def python_of(root: Path, placement: Placement) -> Path:
    """The interpreter that the engine runs in. `root`: where environments lie. Raises EnvironmentFailed."""
    name = placement.environment or BOX
    if name != BOX and not is_current(root / name):
        how = f"`nukkad devices install {name}`" if name in lockable() else "docs/devices.md says how"
        raise EnvironmentFailed(f"NUKKAD_PROVIDER needs the engine environment {name!r}, which is not installed: {how}")
    return folder_python(root, name)


def is_current(folder: Path) -> bool:
    """Whether it is there and made from the lock that this release has; one without a lock was made by hand."""
    if not (folder / "bin" / "python").exists():
        return False
    lock = LOCKS / f"{folder.name}.txt"
    return not lock.exists() or ((folder / STAMP).exists() and (folder / STAMP).read_bytes() == lock.read_bytes())


def installed(root: Path) -> tuple[str, ...]:
    """Environments under `root` that may be used."""
    known = {provider.environment for provider in PROVIDERS if provider.environment}
    return tuple(sorted(name for name in known if is_current(root / name)))


def install(root: Path, name: str, wheels: Path | None = None) -> Path:
    """Make an environment from its lock, checked against hashes, and return its folder. Replaces an older one.

    `wheels`: folder to take wheels from instead of the index. Raises EnvironmentFailed.
    """
    lock = LOCKS / f"{name}.txt"
    if not lock.is_file():
        raise EnvironmentFailed(f"there is no environment {name!r} to install: choose one of {', '.join(lockable())}")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = root / f".{name}"
    venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(fresh)
    python = fresh / "bin" / "python"
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--python", str(python)]
    command += ["install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", *source, "-r", str(lock)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603 - every word is our own
    if done.returncode != 0:
        shutil.rmtree(fresh)
        raise EnvironmentFailed(f"{name} could not be installed: {done.stdout.strip()[-2000:]}")
    (site,) = (fresh / "lib").glob("python*/site-packages")
    (site / "nukkad-box.pth").write_text(sysconfig.get_paths()["purelib"] + os.linesep, encoding="utf-8")
    (fresh / STAMP).write_bytes(lock.read_bytes())
    shutil.rmtree(root / name, ignore_errors=True)
    fresh.rename(root / name)
    return root / name
