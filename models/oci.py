"""The few OCI documents a package consists of (image-spec 1.1, CNCF ModelPack v1), and how large each may be."""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from models.errors import InvalidLayout
from models.manifest import Manifest

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
# One plain file per layer. Tar layers can slip out of a folder or inflate; code and data sets do not belong on a box.
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
SETTING_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
DOCUMENT_TYPE = "application/vnd.cncf.model.doc.v1.raw"
FILE_PATH = "org.cncf.model.filepath"
REFERENCE_NAME = "org.opencontainers.image.ref.name"
LAYOUT_MARK = b'{"imageLayoutVersion":"1.0.0"}'

DOCUMENT_BYTES_MAX = 1 << 20  # index.json, manifest and config, each
LAYERS_MAX = 64
FILE_BYTES_MAX = 16 << 30
PACKAGE_BYTES_MAX = 32 << 30

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Document = TypeVar("Document", bound=BaseModel)


class _Strict(BaseModel):
    # Unknown fields are refused, which also refuses `urls`, `data` and `subject`: content from elsewhere.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel)


class Descriptor(_Strict):
    """What a blob is, its sha256 and its exact size in bytes."""

    media_type: str
    digest: Digest
    size: int = Field(ge=0, le=FILE_BYTES_MAX)
    artifact_type: str | None = None
    annotations: dict[str, str] = {}

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")


class Index(_Strict):
    schema_version: Literal[2]
    media_type: Literal["application/vnd.oci.image.index.v1+json"] = "application/vnd.oci.image.index.v1+json"
    manifests: tuple[Descriptor, ...] = Field(min_length=1, max_length=1)
    annotations: dict[str, str] = {}


class ImageManifest(_Strict):
    schema_version: Literal[2]
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"]
    artifact_type: Literal["application/vnd.cncf.model.manifest.v1+json"]
    config: Descriptor
    layers: tuple[Descriptor, ...] = Field(min_length=1, max_length=LAYERS_MAX)
    annotations: dict[str, str] = {}


def encode_json(document: object) -> bytes:
    """Canonical JSON: sorted keys, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode_json(kind: type[Document], data: bytes, name: str) -> Document:
    """Raises InvalidLayout naming the document and the field."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(step) for step in fault["loc"])
        raise InvalidLayout(f"{name}: {field or 'document'}: {fault['msg']}; this is not a model package") from error


def describe_model(manifest: Manifest, digests: list[str]) -> dict[str, Any]:
    """ModelPack's config document, derived from our manifest alone so that packing twice gives the same bytes."""
    output = "embedding" if manifest.family == "encoder" else "text"
    return {
        "descriptor": {
            "name": manifest.name,
            "version": manifest.version,
            "licenses": [manifest.licence],
            "description": manifest.source,
        },
        "config": {
            "architecture": "transformer",
            "format": "onnx",
            "quantization": manifest.default_lane,
            "capabilities": {
                "inputTypes": ["text"],
                "outputTypes": [output],
                # ModelPack knows only two-letter codes; the rest stand in nukkad.json.
                "languages": sorted({language for language in manifest.languages if len(language) == 2}),
            },
        },
        "modelfs": {"type": "layers", "diffIds": digests},
    }
