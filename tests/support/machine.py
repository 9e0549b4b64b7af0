"""A small Debian in a folder, booted with its real systemd in namespaces of its own: no network but loopback.

Needs root, debootstrap and unshare. The base system is fetched once and kept under ~/.cache/nukkad-tests.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CACHE = Path.home() / ".cache" / "nukkad-tests"
SUITE = "bookworm"  # its Python is the one the lock files are made for
PACKAGES = "ca-certificates,python3-venv,systemd"
BOOT_S_MAX = 60
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

# Runs inside new mount, process and network namespaces; $1 is the system's folder, $2 a name for its control group.
# A group of our own keeps the real systemd of a host, if it has one, out of our way and us out of its way.
BOOT = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mkdir -p "sys/fs/cgroup/$2"
echo 0 >"sys/fs/cgroup/$2/cgroup.procs"
umount sys/fs/cgroup
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=755 none dev
for device in null zero full random urandom tty; do touch dev/$device; mount --bind /dev/$device dev/$device; done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 none dev/shm
ln -s /proc/self/fd dev/fd
ip link set lo up
exec unshare --cgroup sh -c '
    mount -t cgroup2 none sys/fs/cgroup
    pivot_root . mnt
    umount -l /mnt
    exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd
'
"""
SWEEP = 'mount -t cgroup2 none /mnt && find "/mnt/$1" -depth -type d -exec rmdir {} +'


def mirror() -> str:
    """Where this machine's own apt gets Debian from."""
    lists = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in lists:
        for line in path.read_text().splitlines() if path.is_file() else ():
            found = re.match(r"(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S+/debian)/?(?:\s|$)", line)
            if found:
                return found.group(1)
    raise AssertionError("no Debian mirror in /etc/apt: add one to sources.list")


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """A file or folder of the cache, made under another name first, so that a half-made one is never used."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        CACHE.mkdir(parents=True, exist_ok=True)
        make(fresh)
        fresh.rename(path)
    return path


def base_system() -> Path:
    """The minimal system as a tar."""

    def make(fresh: Path) -> None:
        folder = fresh.with_suffix(".folder")
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(folder), mirror()]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for unneeded in (folder / "var/cache/apt/archives").glob("*.deb"):
                unneeded.unlink()
            subprocess.run(["tar", "-C", str(folder), "-cf", str(fresh), "."], check=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # A new name each quarter of a year, so that Debian's updates arrive.
    age = int(time.time() // (91 * 86_400))
    key = sha256(f"{SUITE} {PACKAGES} {age}".encode()).hexdigest()[:12]
    return make_once(CACHE / f"system-{key}.tar", make)


def wheels() -> Path:
    """Every wheel of the box's lock file, for installing without a network."""
    lock = ROOT / "locks" / "box.txt"

    def make(fresh: Path) -> None:
        words = ["-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps", "--only-binary=:all:"]
        subprocess.run([sys.executable, *words, "-r", str(lock), "-d", str(fresh)], check=True)

    return make_once(CACHE / f"wheels-{sha256(lock.read_bytes()).hexdigest()[:12]}", make)


def unpack_system(folder: Path) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-C", str(folder), "-xf", str(base_system())], check=True)


class Machine:
    """The system in `folder`, running. Use it as a context: it is killed at the end, with all its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._group = f"nukkad-test-{os.getpid()}-{folder.name}"
        self._init = 0

    def __enter__(self) -> "Machine":
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "sh", "-c", BOOT]
        self._process = subprocess.Popen([*command, "boot", str(self.folder), self._group])
        try:
            self.wait_until(self._booted, "boot")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        words = ["unshare", "--mount", "sh", "-c", SWEEP, "sweep", self._group]
        for _attempt in range(50):  # the kernel takes a moment to let go of the last process
            if subprocess.run(words, check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"control group {self._group} is left behind")

    def run(self, *words: str, check: bool = True, user: str | None = None) -> str:
        """A command inside, as root or another user; returns what it wrote to both outputs."""
        as_user = ["runuser", "-u", user, "--"] if user else []
        command = ["nsenter", f"--target={self._init}", "--all", "--", *as_user, *words]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True, env={"PATH": PATH}
        )
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}"
        return done.stdout

    def ask(self, url: str, body: dict[str, object] | None = None, key: str = "") -> dict[str, Any]:
        """The JSON of an answer of status 200, asked for from inside; with a body it is a POST."""
        program = (
            "import json, sys, urllib.request as r; url, body, key = sys.argv[1:];"
            "headers = {'Content-Type': 'application/json', 'Authorization': 'Bearer ' + key};"
            "print(r.urlopen(r.Request(url, body.encode() or None, headers), timeout=30).read().decode())"
        )
        data = "" if body is None else json.dumps(body)
        answer: dict[str, Any] = json.loads(self.run("python3", "-c", program, url, data, key))
        return answer

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = BOOT_S_MAX) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
            time.sleep(0.1)

    def _booted(self) -> bool:
        assert self._process.poll() is None, "the machine did not boot"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._init = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")
