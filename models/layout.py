"""A flat folder of package files as a CNCF ModelPack in an OCI image layout, and back.

The same folder gives the same digest on every machine. A layout is a folder or that folder as an uncompressed .tar;
which of the two it is makes no difference to the package or to its digest.
"""

import os
import re
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from models.errors import InvalidLayout, TamperedPackage
from models.files import Progress, copy_checked, digest_stream, flush_file, flush_folder, ignore_progress, open_regular
from models.manifest import FILE_NAME, MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, decode_manifest, read_manifest
from models.oci import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    DOCUMENT_BYTES_MAX,
    DOCUMENT_TYPE,
    FILE_BYTES_MAX,
    FILE_PATH,
    INDEX_TYPE,
    LAYERS_MAX,
    LAYOUT_MARK,
    MANIFEST_TYPE,
    PACKAGE_BYTES_MAX,
    REFERENCE_NAME,
    SETTING_TYPE,
    WEIGHT_TYPE,
    Descriptor,
    ImageManifest,
    Index,
    decode_json,
    describe_model,
    encode_json,
)
from models.source import LayoutSource, open_source, read_document

_DOCUMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*\.(md|txt)|LICEN[CS]E|NOTICE)$")


@dataclass(frozen=True)
class Package:
    """What a layout holds, after its documents were checked; `files` maps a file's name to its blob."""

    digest: bytes  # sha256 of the OCI manifest, 32 bytes: the package's identity
    manifest: Manifest
    files: Mapping[str, Descriptor]
    image: bytes  # the OCI manifest as it came

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(blob.size for blob in self.files.values())


def media_type(name: str, manifest: Manifest) -> str:
    """The one layer type a file of this name may have. Raises InvalidLayout for a file that has no purpose."""
    if not re.match(FILE_NAME, name):
        raise InvalidLayout(f"{name!r}: not a file name for a package; use letters, digits, dot, dash and underscore")
    if name in manifest.weight_files:
        return WEIGHT_TYPE
    if name in manifest.setting_files:
        return SETTING_TYPE
    if _DOCUMENT.match(name):
        return DOCUMENT_TYPE
    raise InvalidLayout(
        f"{name}: neither named by {MANIFEST_FILE} nor a document (*.md, *.txt, LICENSE, NOTICE); remove it"
    )


def pack(folder: Path, out: Path, progress: Progress = ignore_progress) -> str:
    """Pack a flat folder into a new layout at `out` (a tar if it ends in .tar); returns "sha256:…" of the manifest.

    `out` appears complete or not at all. If it already holds the same package nothing changes; anything else there is
    an error.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=out.parent) as scratch:
        fresh = Path(scratch) / "layout"
        digest = _write_layout(folder, fresh, progress)
        if out.exists():
            with open_source(out) as source:
                if read_package(source).digest.hex() != digest:
                    raise InvalidLayout(f"{out}: holds another package; choose another place or remove it first")
            return f"sha256:{digest}"
        if out.suffix == ".tar":
            archive = Path(scratch) / "layout.tar"
            _write_tar(fresh, archive)
            fresh = archive
        fresh.rename(out)
        flush_folder(out.parent)
    return f"sha256:{digest}"


def read_package(source: LayoutSource) -> Package:
    """Check the layout's documents (not yet its files): types, names, sizes, and that every file has a purpose."""
    if b'"1.0.0"' not in read_document(source, "oci-layout", 1024):
        raise InvalidLayout("oci-layout: not version 1.0.0 of the OCI image layout")
    index = decode_json(Index, read_document(source, "index.json", DOCUMENT_BYTES_MAX), "index.json")
    entry = index.manifests[0]
    data = _read_blob(source, entry, DOCUMENT_BYTES_MAX, "manifest")
    image = decode_json(ImageManifest, data, "manifest")
    if image.config.media_type != CONFIG_TYPE:
        raise InvalidLayout(f"manifest: config: type {image.config.media_type!r} is not that of a model")
    _read_blob(source, image.config, DOCUMENT_BYTES_MAX, "config")
    files = _name_files(image)
    manifest = decode_manifest(_read_blob(source, files[MANIFEST_FILE], MANIFEST_BYTES_MAX, MANIFEST_FILE))
    for name in sorted(manifest.weight_files | manifest.setting_files):
        if name not in files:
            raise InvalidLayout(f"{name}: named by {MANIFEST_FILE} but not in the package; pack it again")
    for name, blob in files.items():
        if blob.media_type != media_type(name, manifest):
            raise InvalidLayout(
                f"{name}: layer type {blob.media_type!r} is refused; expected {media_type(name, manifest)}"
            )
    return Package(sha256(data).digest(), manifest, MappingProxyType(files), data)


def unpack(source: LayoutSource, package: Package, folder: Path, progress: Progress = ignore_progress) -> None:
    """Write a layout's files, flat and read-only, into a new folder; size and digest are checked while they stream.

    `package` is what `read_package` gave: the layout's documents are not read again, for they may have changed since.
    On any error the folder may hold some files and must be thrown away.
    """
    folder.mkdir()
    for name, blob in package.files.items():
        with source.open(_blob_path(blob)) as stream, (folder / name).open("xb") as target:
            copy_checked(stream, name, blob.size, blob.hex, target=target, progress=progress)
            flush_file(target)
            os.fchmod(target.fileno(), 0o444)
    flush_folder(folder)


def check_image(data: bytes, digest: bytes) -> Mapping[str, Descriptor]:
    """The files of an OCI manifest kept outside its layout, after comparing it with its digest."""
    if sha256(data).digest() != digest:
        raise TamperedPackage("manifest: content does not match its digest; install the package again")
    return _name_files(decode_json(ImageManifest, data, "manifest"))


def _name_files(image: ImageManifest) -> dict[str, Descriptor]:
    """Layers by file name, each name once and allow-listed."""
    files: dict[str, Descriptor] = {}
    for layer in image.layers:
        name = layer.annotations.get(FILE_PATH)
        if name is None:
            raise InvalidLayout(
                f"manifest: layer {layer.digest[:19]}…: no {FILE_PATH}; a package has one named file per layer"
            )
        if not re.match(FILE_NAME, name):
            raise InvalidLayout(
                f"manifest: {name!r}: not a plain file name; use letters, digits, dot, dash and underscore"
            )
        if name in files:
            raise InvalidLayout(f"manifest: {name}: occurs twice")
        files[name] = layer
    if MANIFEST_FILE not in files:
        raise InvalidLayout(f"manifest: no {MANIFEST_FILE}; this model was not packed for Nukkad")
    if sum(blob.size for blob in files.values()) > PACKAGE_BYTES_MAX:
        raise InvalidLayout(f"manifest: files of more than {PACKAGE_BYTES_MAX} bytes together")
    return files


def _blob_path(blob: Descriptor) -> str:
    return f"blobs/sha256/{blob.hex}"


def _read_blob(source: LayoutSource, blob: Descriptor, bytes_max: int, name: str) -> bytes:
    data = read_document(source, _blob_path(blob), bytes_max)
    if len(data) != blob.size or sha256(data).hexdigest() != blob.hex:
        raise TamperedPackage(f"{name}: content does not match its digest {blob.digest[:19]}…; fetch the package again")
    return data


def _write_layout(folder: Path, out: Path, progress: Progress) -> str:
    manifest = read_manifest(folder)
    names = sorted(entry.name for entry in folder.iterdir())
    missing = (manifest.weight_files | manifest.setting_files).difference(names)
    if missing:
        raise InvalidLayout(f"{folder}: {', '.join(sorted(missing))}: named by {MANIFEST_FILE} but not there; add it")
    if len(names) > LAYERS_MAX:
        raise InvalidLayout(f"{folder}: {len(names)} files; a package holds at most {LAYERS_MAX}")
    types = [media_type(name, manifest) for name in names]
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers = []
    for name, kind in zip(names, types, strict=True):
        with open_regular(folder / name) as file:
            layers.append(
                {"mediaType": kind, "annotations": {FILE_PATH: name}, **_add_file(blobs, file, name, progress)}
            )
    config = describe_model(manifest, [str(layer["digest"]) for layer in layers])
    image = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, **_add_bytes(blobs, encode_json(config))},
        "layers": layers,
    }
    entry = {"mediaType": MANIFEST_TYPE, "artifactType": ARTIFACT_TYPE, **_add_bytes(blobs, encode_json(image))}
    entry["annotations"] = {REFERENCE_NAME: manifest.version}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    (out / "index.json").write_bytes(encode_json(index))
    (out / "oci-layout").write_bytes(LAYOUT_MARK)
    return str(entry["digest"]).removeprefix("sha256:")


def _add_bytes(blobs: Path, data: bytes) -> dict[str, object]:
    digest = sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def _add_file(blobs: Path, file: BinaryIO, name: str, progress: Progress) -> dict[str, object]:
    size = os.fstat(file.fileno()).st_size
    if size > FILE_BYTES_MAX:
        raise InvalidLayout(f"{name}: {size} bytes; a file of a package has at most {FILE_BYTES_MAX}")
    fresh = blobs / "fresh"
    with fresh.open("wb") as target:
        try:
            digest = digest_stream(file, size, target, progress)
        except ValueError as error:
            raise InvalidLayout(f"{name}: changed while it was packed ({error}); pack again") from error
        flush_file(target)
    fresh.rename(blobs / digest)
    return {"digest": f"sha256:{digest}", "size": size}


def _write_tar(layout: Path, out: Path) -> None:
    """The same layout gives the same archive: sorted names, no owner, no times."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with out.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(layout.rglob("*")):
                archive.add(path, str(path.relative_to(layout)), recursive=False, filter=plain)
        flush_file(file)


__all__ = ["Package", "check_image", "media_type", "open_source", "pack", "read_package", "unpack"]
