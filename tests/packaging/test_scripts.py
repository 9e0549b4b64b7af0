"""What can be said of the scripts and the Containerfile without running them on a system."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.settings import Settings
from tests.support.machine import ROOT

PACKAGING = ROOT / "packaging"
SCRIPTS = sorted(PACKAGING.glob("*.sh"))
CONTAINERFILE = (PACKAGING / "oci/Containerfile").read_text()


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PACKAGING / script), *words], check=False, capture_output=True, text=True)


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of a kind, lines joined."""
    joined = CONTAINERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_plain_shell_and_stops_at_errors(script: Path) -> None:
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert script.read_text().startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in script.read_text()
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_a_wrong_option_is_named_with_the_next_step(script: str) -> None:
    done = run(script, "--surprise")
    assert done.returncode == 1
    assert "unknown option --surprise" in done.stderr
    assert f"next: packaging/{script} --help" in done.stderr


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
@pytest.mark.parametrize("root", ["", "/"])
def test_an_unset_root_is_not_this_machine(script: str, root: str) -> None:
    """`--root "$UNSET" --purge-data` must never reach the machine's own data."""
    done = run(script, "--root", root)
    assert done.returncode == 1
    assert "--root must name a folder" in done.stderr


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_help_names_every_option(script: str) -> None:
    text = (PACKAGING / script).read_text()
    options = set(re.findall(r"^\s+(?:-h \| )?(--[a-z-]+)(?: \| --[a-z-]+)*\)", text, re.MULTILINE)) - {"--help"}
    shown = run(script, "--help")
    assert shown.returncode == 0
    assert options
    assert all(option in shown.stdout for option in options)


def test_installing_asks_the_node_whether_it_is_ready_and_nothing_else() -> None:
    script = (PACKAGING / "install.sh").read_text()
    assert "/readyz" in script and "nukkad node " not in script


@pytest.mark.parametrize(
    ("unit", "pid", "restarts", "ready_s", "ended"),
    [
        ("nukkad-node.service", 7, 0, 400, "up 400"),
        ("nukkad-node.service", 7, 0, 9999, "down 660"),
        ("nukkad-node.service", 7, 2, 400, "down 1"),
        ("nukkad-node.service", 0, 1, 400, "down 60"),
        ("nukkad.service", 7, 0, 400, "down 60"),
    ],
)
def test_a_node_that_lives_is_waited_for_while_it_migrates(
    unit: str, pid: int, restarts: int, ready_s: int, ended: str
) -> None:
    """The script's own function, with a clock that only its sleeps move."""
    found = re.search(r"^comes_up\(\) \{\n.*?^\}\n", (PACKAGING / "install.sh").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None and "/usr/local/bin/nukkad status" in found[0]
    around = f"""
now=0
date() {{ echo "$now"; }}
sleep() {{ now=$((now + $1)); }}
systemctl() {{ case "$*" in *MainPID*) echo {pid} ;; *NRestarts*) echo {restarts} ;; esac; }}
node_is_ready() {{ [ "$now" -ge {ready_s} ]; }}
{found[0].replace("/usr/local/bin/nukkad status", "false")}
if comes_up {unit}; then echo "up $now"; else echo "down $now"; fi
"""
    done = subprocess.run(["sh", "-euc", around], check=False, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (ended, "")


@pytest.fixture
def wrapper(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """The command line's wrapper on folders and a user of the test's own, around a program that prints what it got."""
    program = tmp_path / "bin" / "nukkad"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec /usr/bin/env -0\n")
    program.chmod(0o755)
    script = (PACKAGING / "nukkad.sh").read_text()
    for honest, own in (
        ("/etc/nukkad", tmp_path),
        ("/opt/nukkad/current", tmp_path),
        ("user=nukkad ", "user=$(id -un) "),
    ):
        assert honest in script
        script = script.replace(honest, str(own))
    (tmp_path / "nukkad.sh").write_text(script)

    def run_with(settings: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "box.env").write_text(settings)
        return subprocess.run(["sh", str(tmp_path / "nukkad.sh")], check=False, capture_output=True, text=True)

    return run_with


def environment(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What the program was given."""
    assert done.returncode == 0, done.stderr
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NUKKAD_T=0.0.0.0", "0.0.0.0"),
        ('NUKKAD_T="0.0.0.0"', "0.0.0.0"),
        ("NUKKAD_T='a, b'", "a, b"),
        ("  NUKKAD_T =  a b\t ", "a b"),
        ('NUKKAD_T="  a  "', "  a  "),
        ('NUKKAD_T=""', ""),
        ("NUKKAD_T=", ""),
        ('NUKKAD_T="Sharma\'s"', "Sharma's"),
        ("NUKKAD_T='\"a\" \\'", '"a" \\'),
        ("NUKKAD_T=$(id) `id` $HOME; id", "$(id) `id` $HOME; id"),
        ("NUKKAD_T=a=b", "a=b"),
        ("# NUKKAD_T=comment\nNUKKAD_T=last", "last"),
    ],
)
def test_the_command_line_reads_settings_as_the_service_does(
    wrapper: Callable[[str], subprocess.CompletedProcess[str]], line: str, value: str
) -> None:
    """What systemd makes of EnvironmentFile=, see systemd.exec(5)."""
    for end in ("", "\n"):
        assert environment(wrapper(line + end))["NUKKAD_T"] == value


def test_every_line_counts_whatever_its_name(wrapper: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    given = environment(wrapper("HTTPS_PROXY=http://proxy:3128\n no_proxy = localhost\n"))
    assert (given["HTTPS_PROXY"], given["no_proxy"]) == ("http://proxy:3128", "localhost")


def test_what_systemd_passes_over_is_passed_over(wrapper: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    plain = environment(wrapper(""))
    lines = "; T1=a comment\n# T2=a comment\nexport T3=a\n4T=a\nT-5=a\n=a\nT6\n\n"
    assert environment(wrapper(lines)) == plain


def test_a_setting_in_the_file_goes_before_the_wrapper_s_own(
    wrapper: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    assert environment(wrapper(""))["NUKKAD_CACHE"] == "/var/lib/nukkad/box/cache"
    assert environment(wrapper("NUKKAD_CACHE=/srv/cache\n"))["NUKKAD_CACHE"] == "/srv/cache"


def test_no_name_in_the_file_changes_what_is_run(wrapper: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    lines = {"user": "nobody", "state": "/nowhere", "settings": "/nowhere", "PATH": "/nowhere", "IFS": "N"}
    given = environment(wrapper("".join(f"{name}={value}\n" for name, value in lines.items()) + "NUKKAD_T=NaN\n"))
    assert (given["NUKKAD_STATE"], given["NUKKAD_T"]) == ("/var/lib/nukkad/box", "NaN")
    assert (given["user"], given["PATH"]) == ("nobody", "/nowhere")


@pytest.mark.parametrize("value", ['"a"b"', "'a'b'", '"a\\"b"', "a\\nb", '"a', "a'b", '"', '"a" "b"'])
def test_a_value_that_systemd_reads_in_another_way_is_refused_by_name(
    wrapper: Callable[[str], subprocess.CompletedProcess[str]], value: str
) -> None:
    done = wrapper(f"NUKKAD_T={value}\n")
    assert (done.returncode, done.stdout) == (78, "")
    assert "NUKKAD_T: write the value plainly" in done.stderr


@pytest.mark.parametrize("unit", ["nukkad.service", "nukkad-node.service"])
def test_a_crash_loop_is_paced_and_never_given_up(unit: str) -> None:
    lines = (PACKAGING / "systemd" / unit).read_text().splitlines()
    assert {"StartLimitIntervalSec=0", "Restart=always", "RestartSec=5"} <= set(lines)


def test_settings_files_hold_only_comments_and_known_names() -> None:
    for name, prefix in (("box.env", "NUKKAD_"), ("node.env", "NUKKAD_NODE_")):
        for line in (PACKAGING / "systemd" / name).read_text().splitlines():
            assert line.startswith("#")
            if "=" in line and not line.startswith("# "):
                assert line.startswith(f"#{prefix}")


def test_the_image_is_made_of_files_that_exist() -> None:
    copied = [words.split()[:-1] for words in instructions("COPY") if not words.startswith("--from")]
    assert copied
    for path in (ROOT / name for names in copied for name in names):
        assert path.exists(), path
    ignored = (PACKAGING / "oci/Containerfile.dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert {name.split("/")[0] for names in copied for name in names} == sent


def test_the_image_runs_as_nobody_special_and_reports_its_health() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert instructions("ENTRYPOINT") == ['["nukkad"]'] and instructions("CMD") == ['["serve"]']
    port = str(Settings().port)
    assert instructions("EXPOSE") == [port]
    (check,) = instructions("HEALTHCHECK")
    assert f"127.0.0.1:{port}/healthz" in check
    (settings, *_) = instructions("ENV")
    names = re.findall(r"(NUKKAD_[A-Z_]+)=", settings)
    assert all(hasattr(Settings(), name.removeprefix("NUKKAD_").lower()) for name in names)


def test_the_image_holds_no_secret_and_checks_every_hash() -> None:
    assert not re.search(r"(?i)password|secret|token|api.?key", CONTAINERFILE)
    (locked,) = (words for words in instructions("RUN") if "box.txt" in words)
    assert "--require-hashes" in locked and "--no-deps" in locked
