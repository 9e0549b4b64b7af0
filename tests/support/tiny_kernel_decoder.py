"""A small random decoder on our own operators, saved as a graph that `KernelDecoder` runs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.library import DOMAIN
from kernels.packing import pack8, quantize8, tile_bytes, units

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, POSITIONS = 2, 2, 1, 32, 64, 64, 256


def save_kernel_decoder(path: Path, vocab: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(value: NDArray[Any]) -> str:
        name = f"weight{len(weights)}"
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def matrix(outputs: int, inputs: int) -> NDArray[np.float32]:
        return random.standard_normal((outputs, inputs), dtype=np.float32) * np.float32(2 / inputs**0.5)

    def packed(values: NDArray[np.float32]) -> str:
        return constant(pack8(*quantize8(values)))

    def node(kind: str, inputs: list[str], outputs: list[str], domain: str = DOMAIN, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    angles = np.outer(np.arange(POSITIONS), 1000.0 ** (-np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2)))
    cosines, sines = constant(np.cos(angles).astype(np.float32)), constant(np.sin(angles).astype(np.float32))
    ones = constant(np.ones(HIDDEN, np.float32))
    table = packed(matrix(vocab, HIDDEN) * 8)
    ports = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["T"])]
    ports.append(helper.make_tensor_value_info("sequences", TensorProto.INT32, ["B", 4]))
    ports.append(helper.make_tensor_value_info("logit_idx", TensorProto.INT64, ["R"]))
    results = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", vocab])]
    stream = node("LookUp", ["input_ids", table], ["stream"], width=vocab)
    rows = node("AddNormQuantize", [stream, ones], ["rows"], epsilon=1e-5)
    for layer in range(LAYERS):
        width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        numbers = node("MatMulBlocks", [rows, packed(matrix(width, HIDDEN))], [f"numbers{layer}"], width=width)
        names = [f"{layer}.{part}" for part in ("key", "value")]
        shape = ["slots", KV_HEADS, "tiles", tile_bytes(HEAD_DIM)]
        ports += [helper.make_tensor_value_info(f"past_key_values.{n}", TensorProto.UINT8, shape) for n in names]
        results += [helper.make_tensor_value_info(f"present.{n}", TensorProto.UINT8, shape) for n in names]
        caches = [f"past_key_values.{name}" for name in names]
        attended = node(
            "CachedAttention",
            [numbers, "sequences", cosines, sines, *caches],
            [f"attended{layer}", *(f"present.{name}" for name in names)],
            heads=HEADS,
            kv_heads=KV_HEADS,
        )
        mixed = packed(matrix(HIDDEN, HEADS * HEAD_DIM))
        change = node("MatMulBlocks", [attended, mixed], [f"change{layer}"], width=HIDDEN)
        node("AddNormQuantize", [stream, ones, change], [f"between{layer}", f"stream{layer}"], epsilon=1e-5)
        inner = node("GateUp", [f"between{layer}", packed(matrix(2 * INNER, HIDDEN)[units(INNER)])], [f"inner{layer}"])
        change = node("MatMulBlocks", [inner, packed(matrix(HIDDEN, INNER))], [f"down{layer}"], width=HIDDEN)
        outputs = [f"rows{layer}", f"after{layer}"]
        rows = node("AddNormQuantize", [f"stream{layer}", ones, change], outputs, epsilon=1e-5)
        stream = f"after{layer}"
    wanted = node("Gather", [rows, "logit_idx"], ["wanted"], domain="", axis=0)
    node("MatMulBlocks", [wanted, table], ["logits"], width=vocab)
    graph = helper.make_graph(nodes, "tiny", ports, results, weights)
    imports = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())
    return path
