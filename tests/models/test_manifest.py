import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import InvalidLayout, InvalidManifest
from models.manifest import (
    MANIFEST_BYTES_MAX,
    Manifest,
    SelfTest,
    decode_manifest,
    encode_manifest,
    read_manifest,
    write_manifest,
)
from tests.support.tiny_package import DIM, tiny_manifest


def edited(**fields: Any) -> bytes:
    document = json.loads(encode_manifest(tiny_manifest()))
    document.update(fields)
    return json.dumps(document).encode()


@given(
    text=st.text(min_size=1, max_size=50),
    vector=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=DIM, max_size=DIM),
)
def test_encoding_is_canonical_and_loses_nothing(text: str, vector: list[float]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    manifest = tiny_manifest().model_copy(update={"self_test": (SelfTest(text=text, vector=tuple(vector)),)})
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert encode_manifest(decode_manifest(data)) == data


DECODER: dict[str, Any] = {
    "family": "decoder",
    "tasks": ["chat"],
    "embedding": None,
    "chat": {"template": "{{ x }}", "stop_token_ids": [2]},
    "self_test": [{"text": "a", "tokens": [1]}],
}


def test_a_decoder_is_accepted() -> None:
    assert decode_manifest(edited(**DECODER)).family == "decoder"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "Tiny"}, "name"),
        ({"name": "../tiny"}, "name"),
        ({"version": "1 2"}, "version"),
        ({"schema_version": 2}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"languages": ["hindi"]}, "languages.0"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": "512"}, "context_tokens"),
        ({"tokenizer": "a/tokenizer.json"}, "tokenizer"),
        ({"tokenizer": ".."}, "tokenizer"),
        ({"tokenizer": "card.json"}, "card.json"),
        ({"card": "nukkad.json"}, "nukkad.json"),
        ({"default_lane": "q4"}, "default_lane: no lane 'q4'; use one of int8"),
        ({"lanes": {}}, "lanes"),
        ({"lanes": {"int8": {"graph": "m.bin", "weights": []}}}, "lanes.int8.graph"),
        ({"lanes": {"int8": {"graph": "m.onnx", "weights": ["m.onnx"]}}}, "m.onnx"),
        ({"tasks": ["chat"]}, "tasks"),
        ({"tasks": ["search"]}, "tasks"),
        ({"tasks": ["embedding", "chat"]}, "tasks"),
        ({"embedding": None}, "embedding"),
        ({"self_test": []}, "self_test"),
        ({"self_test": [{"text": "a", "vector": [1.0]}]}, "self_test.0"),
        ({"self_test": [{"text": "a", "vector": [float("nan")] * DIM}]}, "self_test.0.vector"),
        ({"geometry": {"layers": 1, "hidden": 4, "heads": 3, "kv_heads": 2, "head_dim": 4, "vocab": 8}}, "heads (3)"),
        (DECODER | {"tasks": ["chat", "embedding"]}, "tasks"),
        (DECODER | {"tasks": ["chat", "search"]}, "tasks"),
        (DECODER | {"tasks": ["completion"]}, "chat: give a template exactly when"),
        (DECODER | {"chat": None}, "chat: give a template exactly when"),
        (DECODER | {"self_test": [{"text": "a"}]}, "self_test.0"),
    ],
)
def test_a_fault_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        decode_manifest(edited(**fields))
    assert named in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidManifest):
        decode_manifest(data)


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(InvalidManifest, match=r"name.*version"):
        decode_manifest(edited(name="", version=""))


def test_a_manifest_is_read_from_its_folder(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "nukkad.json").write_bytes(b" " * (MANIFEST_BYTES_MAX + 1))
    with pytest.raises(InvalidLayout, match=r"nukkad\.json: larger"):
        read_manifest(tmp_path)


def test_files_are_known_by_purpose() -> None:
    manifest: Manifest = tiny_manifest()
    assert manifest.weight_files == {"model.int8.onnx", "model.int8.bin"}
    assert manifest.setting_files == {"nukkad.json", "tokenizer.json", "card.json"}
