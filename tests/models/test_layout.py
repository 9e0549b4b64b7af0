import json
import os
import re
import tarfile
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from models import layout as layouts
from models.errors import InvalidLayout, InvalidManifest, PackageError, TamperedPackage
from models.layout import open_source, pack, read_package, unpack
from models.oci import LAYERS_MAX
from tests.support.tiny_package import write_tiny_package

Edit = Callable[[dict[str, Any]], None]


def blob(layout: Path, name: str) -> Path:
    """The blob of one file."""
    layers = read_image(layout)["layers"]
    digest = next(layer["digest"] for layer in layers if layer["annotations"]["org.cncf.model.filepath"] == name)
    return layout / "blobs" / "sha256" / str(digest).removeprefix("sha256:")


def read_image(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_bytes())
    path = layout / "blobs" / "sha256" / index["manifests"][0]["digest"].removeprefix("sha256:")
    image: dict[str, Any] = json.loads(path.read_bytes())
    return image


def edit_image(layout: Path, edit: Edit) -> None:
    """Change the OCI manifest as a forger would: all digests on the way to it are right again."""
    image = read_image(layout)
    edit(image)
    data = json.dumps(image).encode()
    digest = sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    index = json.loads((layout / "index.json").read_bytes())
    index["manifests"][0] |= {"digest": f"sha256:{digest}", "size": len(data)}
    (layout / "index.json").write_bytes(json.dumps(index).encode())


def unpack_to(layout: Path, folder: Path) -> layouts.Package:
    with open_source(layout) as source:
        package = read_package(source)
        unpack(source, package, folder)
        return package


def read_layout(layout: Path) -> layouts.Package:
    with open_source(layout) as source:
        return read_package(source)


def test_packing_and_unpacking_gives_the_same_files(folder: Path, layout: Path, tmp_path: Path) -> None:
    package = unpack_to(layout, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert package.size == sum(path.stat().st_size for path in folder.iterdir())
    assert not any(path.stat().st_mode & 0o222 for path in (tmp_path / "out").iterdir())


def test_the_same_files_give_the_same_digest_everywhere(folder: Path, tmp_path: Path) -> None:
    twin = write_tiny_package(tmp_path / "elsewhere" / "twin")
    for path in twin.iterdir():
        os.utime(path, (1, 1))
    assert pack(folder, tmp_path / "one") == pack(twin, tmp_path / "two")
    assert pack(folder, tmp_path / "one.tar") == pack(twin, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    other = write_tiny_package(tmp_path / "other", version="2")
    assert pack(other, tmp_path / "three") != pack(folder, tmp_path / "four")


def test_a_tar_is_the_same_package_as_its_folder(folder: Path, tmp_path: Path) -> None:
    digest = pack(folder, tmp_path / "layout.tar")
    assert read_layout(tmp_path / "layout.tar").digest.hex() == digest.removeprefix("sha256:")
    assert digest == pack(folder, tmp_path / "layout")
    unpack_to(tmp_path / "layout.tar", tmp_path / "out")
    assert (tmp_path / "out" / "card.md").read_bytes() == (folder / "card.md").read_bytes()


def test_the_documents_are_those_of_a_model_pack(layout: Path) -> None:
    image = read_image(layout)
    assert image["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    config = json.loads((layout / "blobs/sha256" / image["config"]["digest"].removeprefix("sha256:")).read_bytes())
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in image["layers"]]
    assert config["config"]["capabilities"]["languages"] == ["hi", "ta"]
    kinds = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in image["layers"]}
    assert kinds["model.int8.onnx"] == kinds["model.int8.bin"] == "application/vnd.cncf.model.weight.v1.raw"
    assert kinds["nukkad.json"] == kinds["tokenizer.json"] == "application/vnd.cncf.model.weight.config.v1.raw"
    assert kinds["LICENSE"] == kinds["card.md"] == "application/vnd.cncf.model.doc.v1.raw"


def test_packing_again_changes_nothing_and_never_overwrites_another(folder: Path, tmp_path: Path) -> None:
    digest = pack(folder, tmp_path / "layout")
    assert pack(folder, tmp_path / "layout") == digest
    other = write_tiny_package(tmp_path / "other", version="2")
    with pytest.raises(InvalidLayout, match="holds another package"):
        pack(other, tmp_path / "layout")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".pack-")] == []


def test_progress_counts_every_byte_of_the_files(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    pack(folder, tmp_path / "layout", seen.append)
    assert sum(seen) == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("name", ["run.py", "data.pkl", ".hidden", "a b.md", "weights.onnx"])
def test_a_file_without_a_purpose_is_not_packed(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(InvalidLayout, match=name.replace(".", r"\.")):
        pack(folder, tmp_path / "layout")
    assert not (tmp_path / "layout").exists()


def test_a_missing_file_is_named_when_packing(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidLayout, match=r"tokenizer\.json: named by nukkad\.json but not there"):
        pack(folder, tmp_path / "layout")


def test_links_and_pipes_are_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "card.md").unlink()
    (folder / "card.md").symlink_to("/etc/passwd")
    with pytest.raises(InvalidLayout, match="plain file"):
        pack(folder, tmp_path / "a")
    (folder / "card.md").unlink()
    os.mkfifo(folder / "card.md")
    with pytest.raises(InvalidLayout, match="not a plain file"):
        pack(folder, tmp_path / "b")
    (folder / "card.md").unlink()
    (folder / "card.md").hardlink_to(folder / "LICENSE")
    with pytest.raises(InvalidLayout, match="2 hard links"):
        pack(folder, tmp_path / "c")


@pytest.mark.parametrize("name", ["model.int8.bin", "nukkad.json", "card.md"])
@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda data: data[:-1] + b"\0"])
def test_a_changed_file_is_named(layout: Path, tmp_path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = blob(layout, name)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(TamperedPackage, match=name.replace(".", r"\.")):
        unpack_to(layout, tmp_path / "out")


def test_a_missing_blob_is_refused(layout: Path, tmp_path: Path) -> None:
    blob(layout, "model.int8.bin").unlink()
    with pytest.raises(InvalidLayout, match="missing"):
        unpack_to(layout, tmp_path / "out")


def test_a_changed_manifest_is_refused(layout: Path) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    path = layout / "blobs/sha256" / index["manifests"][0]["digest"].removeprefix("sha256:")
    path.write_bytes(path.read_bytes().replace(b"card.md", b"carD.md"))
    with pytest.raises(TamperedPackage, match="manifest"):
        read_layout(layout)


def set_type(kind: str) -> Edit:
    return lambda image: image["layers"][-1].update(mediaType=kind)


def set_name(name: str) -> Edit:
    return lambda image: image["layers"][0].update(annotations={"org.cncf.model.filepath": name})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (set_type("application/vnd.cncf.model.code.v1.raw"), "is refused"),
        (set_type("application/vnd.cncf.model.dataset.v1.raw"), "is refused"),
        (set_type("application/vnd.cncf.model.weight.v1.tar"), "is refused"),
        (set_type("application/vnd.oci.image.layer.v1.tar+gzip"), "is refused"),
        (set_type("application/vnd.cncf.model.doc.v1.raw"), "expected"),
        (set_name("../../etc/cron.d/x"), "not a plain file name"),
        (set_name("/etc/passwd"), "not a plain file name"),
        (set_name(".."), "not a plain file name"),
        (set_name("a\nb"), "not a plain file name"),
        (set_name("run.py"), "run.py: neither named"),
        (set_name("card.md"), "card.md: occurs twice"),
        (lambda image: image["layers"][0].pop("annotations"), "no org.cncf.model.filepath"),
        (lambda image: image["layers"].pop(0) and None, "LICENSE"),
        (lambda image: image["layers"].pop(), "tokenizer.json: named by nukkad.json but not in the package"),
        (lambda image: image.update(layers=[]), "layers"),
        (lambda image: image.update(layers=image["layers"] * LAYERS_MAX), "layers"),
        (lambda image: image["layers"][0].update(size=1 << 50), "size"),
        (lambda image: image["layers"][0].update(size=-1), "size"),
        (lambda image: image["layers"][0].update(digest="md5:0"), "digest"),
        (lambda image: image["layers"][0].update(urls=["http://x.invalid"]), "urls"),
        (lambda image: image.update(subject=image["config"]), "subject"),
        (lambda image: image.update(artifactType="application/x"), "artifactType"),
        (lambda image: image["config"].update(mediaType="application/vnd.oci.image.config.v1+json"), "config"),
        (lambda image: image.update(schemaVersion=1), "schemaVersion"),
    ],
)
def test_a_forged_manifest_is_refused(layout: Path, tmp_path: Path, edit: Edit, reason: str) -> None:
    edit_image(layout, edit)
    if reason == "LICENSE":  # leaving out a document is no fault: the manifest is what is signed
        assert "LICENSE" not in unpack_to(layout, tmp_path / "out").files
        return
    with pytest.raises(InvalidLayout) as caught:
        unpack_to(layout, tmp_path / "out")
    assert reason in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_invalid_manifest_of_ours_is_refused(layout: Path) -> None:
    data = blob(layout, "nukkad.json").read_bytes().replace(b'"int8"', b'"q4"', 1)
    digest = sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)

    def edit(image: dict[str, Any]) -> None:
        layer = next(x for x in image["layers"] if x["annotations"]["org.cncf.model.filepath"] == "nukkad.json")
        layer |= {"digest": f"sha256:{digest}", "size": len(data)}

    edit_image(layout, edit)
    with pytest.raises(InvalidManifest, match="default_lane"):
        read_layout(layout)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'),
        ("oci-layout", b"x" * 2000),
        ("index.json", b"{}"),
        ("index.json", b'{"schemaVersion":2,"manifests":[]}'),
        ("index.json", b"[" * 100_000),
        ("index.json", b" " * (2 << 20)),
    ],
)
def test_broken_documents_are_refused(layout: Path, name: str, data: bytes) -> None:
    (layout / name).write_bytes(data)
    with pytest.raises(InvalidLayout, match=name):
        read_layout(layout)


def test_a_place_without_a_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidLayout, match=r"nothing: cannot be read \(No such file"):
        read_layout(tmp_path / "nothing")
    with pytest.raises(InvalidLayout, match="oci-layout"):
        read_layout(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "long" * 100])
def test_a_path_that_cannot_be_one_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidLayout, match=f"{name}: cannot be read .*/var/tmp"):
        read_layout(tmp_path / name)


@pytest.mark.parametrize("hidden", ["layout", "layout.tar", "home/layout"])
def test_what_may_not_be_read_is_named_with_the_fix(folder: Path, tmp_path: Path, hidden: str) -> None:
    """In a child that is nobody, for root may read everything."""
    (tmp_path / "home").mkdir()
    pack(folder, tmp_path / hidden)
    (tmp_path / hidden if hidden != "home/layout" else tmp_path / "home").chmod(0)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(tmp_path)  # What lies above may be closed to others.
            if os.geteuid() == 0:
                tmp_path.chmod(0o755)
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            read_layout(Path(hidden))
        except InvalidLayout as error:
            status = 0 if re.search(rf"^{hidden}: cannot be read \(Permission denied\).*/var/tmp", str(error)) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def member(
    name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


@pytest.mark.parametrize(
    "extra",
    [
        [member("../escape")],
        [member("/etc/passwd")],
        [member("blobs/sha256/../../x")],
        [member("run.py")],
        [member("index.json", kind=tarfile.SYMTYPE, link="/etc/passwd", data=b"")],
        [member("index.json", kind=tarfile.LNKTYPE, link="oci-layout", data=b"")],
        [member("index.json", kind=tarfile.FIFOTYPE, data=b"")],
        [member("index.json"), member("index.json")],
        [member(f"blobs/sha256/{number:064x}") for number in range(200)],
    ],
)
def test_a_tar_with_anything_else_in_it_is_refused(tmp_path: Path, extra: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for info, data in extra:
            archive.addfile(info, BytesIO(data))
    with pytest.raises(InvalidLayout, match="archive: "):
        read_layout(tmp_path / "x.tar")


def test_broken_archives_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    pack(folder, whole)
    data = whole.read_bytes()
    broken = tmp_path / "broken.tar"
    for length in range(0, len(data), 1000):
        broken.write_bytes(data[:length])
        try:
            unpack_to(broken, tmp_path / f"out-{length}")
        except PackageError:
            continue
        assert not data[length:].strip(b"\0"), "only padding may be missing from an archive that is taken"


def test_a_compressed_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    import gzip

    pack(folder, tmp_path / "layout.tar")
    (tmp_path / "layout.tar.gz").write_bytes(gzip.compress((tmp_path / "layout.tar").read_bytes()))
    with pytest.raises(InvalidLayout, match="not an uncompressed tar"):
        read_layout(tmp_path / "layout.tar.gz")


def test_an_archive_with_a_huge_header_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(InvalidLayout, match="a header of more than"):
        read_layout(tmp_path / "x.tar")
