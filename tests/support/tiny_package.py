"""A package of a few hundred bytes with a real ONNX graph and external weights, for tests of stores and layouts."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.manifest import Embedding, Geometry, Lane, Manifest, SelfTest, write_manifest

VOCAB, DIM = 8, 4


def tiny_manifest(name: str = "tiny", version: str = "1") -> Manifest:
    return Manifest(
        name=name,
        version=version,
        family="encoder",
        tasks=("embedding",),
        languages=("hi", "ta", "brx"),
        licence="Apache-2.0",
        source="made by a test",
        context_tokens=16,
        geometry=Geometry(layers=1, hidden=DIM, heads=1, kv_heads=1, head_dim=DIM, vocab=VOCAB),
        lanes={"int8": Lane(graph="model.int8.onnx", weights=("model.int8.bin",))},
        default_lane="int8",
        tokenizer="tokenizer.json",
        embedding=Embedding(dim=DIM, query_prefix="query: ", passage_prefix="passage: "),
        self_test=(SelfTest(text="नमस्ते", vector=(0.5, 0.5, 0.5, 0.5)),),
    )


def external_tensor(name: str, dims: tuple[int, ...], location: str, **numbers: int) -> TensorProto:
    """A float32 initializer whose data lie in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **numbers}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def tiny_graph(
    nodes: list[Any] | None = None, initializers: list[Any] | None = None, domain: str = "com.microsoft"
) -> onnx.ModelProto:
    """Looks up rows of a table and applies an operator of ONNX Runtime's own domain; `nodes` are added to it."""
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"], name="look_up"),
            helper.make_node("FastGelu", ["rows"], ["embedding"], name="gelu", domain=domain),
            *(nodes or []),
        ],
        "tiny",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["T"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["T", DIM])],
        [external_tensor("table", (VOCAB, DIM), "model.int8.bin"), *(initializers or [])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def write_tiny_package(folder: Path, name: str = "tiny", version: str = "1") -> Path:
    """Fill a new folder with all files of a package and return it. Versions differ in their weights."""
    folder.mkdir(parents=True)
    write_manifest(folder, tiny_manifest(name, version))
    (folder / "model.int8.onnx").write_bytes(tiny_graph().SerializeToString())
    table = np.random.default_rng(len(version) + sum(version.encode())).random((VOCAB, DIM), dtype=np.float32)
    (folder / "model.int8.bin").write_bytes(table.tobytes())
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "card.json").write_text('{"gate": "none"}')
    (folder / "card.md").write_text("# tiny\n")
    (folder / "LICENSE").write_text("Apache-2.0\n")
    return folder
