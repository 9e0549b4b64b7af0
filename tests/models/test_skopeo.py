"""An outside oracle: Debian's skopeo reads what we pack, and we read what it copies."""

import json
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from models.layout import pack
from models.store import Store

pytestmark = pytest.mark.system


def skopeo(*words: str) -> bytes:
    return subprocess.run(["skopeo", *words], check=True, capture_output=True).stdout


def test_skopeo_reads_the_manifest_and_the_config(layout: Path, folder: Path) -> None:
    # Without --raw skopeo describes container images only and says so of any other artifact.
    raw = skopeo("inspect", "--raw", f"oci:{layout}:1")
    assert f"sha256:{sha256(raw).hexdigest()}" == pack(folder, layout)
    config = json.loads(skopeo("inspect", "--config", "--raw", f"oci:{layout}"))
    assert config["descriptor"] == {
        "name": "tiny",
        "version": "1",
        "licenses": ["Apache-2.0"],
        "description": "made by a test",
    }


@pytest.mark.parametrize("archive", [False, True])
def test_what_skopeo_copies_is_the_same_package(layout: Path, folder: Path, tmp_path: Path, archive: bool) -> None:
    target = tmp_path / ("copy.tar" if archive else "copy")
    kind = "oci-archive" if archive else "oci"
    skopeo("--insecure-policy", "copy", "--preserve-digests", f"oci:{layout}", f"{kind}:{target}:1")
    package = Store(tmp_path / "store").install(target)
    assert f"sha256:{package.digest.hex()}" == pack(folder, layout)
    assert package.name == "tiny"


def test_our_archive_is_one_for_skopeo(folder: Path, tmp_path: Path) -> None:
    digest = pack(folder, tmp_path / "layout.tar")
    raw = skopeo("inspect", "--raw", f"oci-archive:{tmp_path / 'layout.tar'}")
    assert f"sha256:{sha256(raw).hexdigest()}" == digest
