"""The program a child process runs to check one untrusted ONNX graph: bytes on stdin, verdict as JSON on stdout.

It imports nothing of this project and is started by file name in Python's isolated mode, so that a graph which breaks
the parser has nothing to reach: no path, no files to write, little memory and little time.
argv[1] is JSON: {"weights": {file name: bytes}, "memory_bytes": …, "cpu_s": …}.
"""

import json
import resource
import sys
from collections.abc import Iterator
from math import prod
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

NODES_MAX = 20_000
DEPTH_MAX = 2
TENSORS_MAX = 20_000
PORTS_MAX = 1_024  # inputs plus outputs of a graph
SHARING_MAX = 4  # how many times a byte may be used: tensors may lie on the same ones, but each takes memory of its own
TARGET_ELEMENTS_MAX = 1 << 26  # what Expand, Tile and their like may blow one tensor up to
DOMAINS = ("", "ai.onnx", "com.microsoft", "nukkad")  # the last is our own: its operators check what they are given
IR_VERSION_MAX = 13
# Loops and whole-search operators run for as long as their data says; EPContext loads compiled code from a path.
REFUSED_OPERATORS = frozenset(
    {"Loop", "Scan", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch", "EPContext", "PyOp"}
)
# ONNX Runtime computes what depends on constants only while it loads a model, before any limit of a request applies.
# Only operators that cannot make more elements than they are given may stand there.
FOLDABLE_OPERATORS = frozenset(
    {
        "Cast",
        "Constant",
        "DequantizeLinear",
        "Flatten",
        "Identity",
        "Neg",
        "Reshape",
        "Shape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
SIZED_OPERATORS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}  # which input holds the sizes
# Bits of one element, by TensorProto.DataType. Strings and complex numbers have no use here.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}


class Refused(Exception):
    """The sentence a person reads."""


def limit_process(memory_bytes: int, cpu_s: int) -> None:
    """Applied before a byte of the graph is read."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def walk_graphs(graph: Any, depth: int = 0) -> Iterator[Any]:
    """A graph and all graphs inside its nodes."""
    if depth > DEPTH_MAX:
        raise Refused(f"graphs nested deeper than {DEPTH_MAX}")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from walk_graphs(inner, depth + 1)


def attribute_tensors(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors or attribute.type_protos:
                raise Refused(f"node {node.name!r}: sparse tensors and type values are not taken")
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def check_tensor(tensor: Any, weights: dict[str, int]) -> int:
    """The tensor's data are as long as its shape says and lie in the graph or in a weights file of the lane.

    `weights` is empty where data from outside are not taken at all. Returns the bytes.
    """
    bits = BITS.get(tensor.data_type)
    if bits is None:
        raise Refused(f"tensor {tensor.name!r}: element type {tensor.data_type} is not taken")
    if any(size < 0 for size in tensor.dims) or tensor.HasField("segment"):
        raise Refused(f"tensor {tensor.name!r}: has a negative size or is cut into segments")
    elements = int(prod(tensor.dims))
    size = (elements * bits + 7) // 8
    if tensor.data_location or tensor.external_data:
        check_external(tensor, size, weights)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size:
            raise Refused(f"tensor {tensor.name!r}: {len(tensor.raw_data)} bytes where its shape needs {size}")
    else:
        held = sum(
            len(getattr(tensor, field))
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
        )
        if held != (elements * bits + 31) // 32 and held != elements:
            raise Refused(f"tensor {tensor.name!r}: {held} values where its shape needs {elements}")
    return size


def check_external(tensor: Any, size: int, weights: dict[str, int]) -> None:
    if tensor.data_location != 1:
        raise Refused(f"tensor {tensor.name!r}: unclear whether its data lie in the graph or outside")
    keys = {entry.key: entry.value for entry in tensor.external_data}
    if len(keys) != len(tensor.external_data) or not keys.keys() <= {"location", "offset", "length", "checksum"}:
        raise Refused(f"tensor {tensor.name!r}: external data with unknown or repeated keys")
    location = keys.get("location", "")
    if location not in weights:
        raise Refused(f"tensor {tensor.name!r}: its data lie in {location!r}, which is not a weights file of this lane")
    numbers = {}
    for key, default in (("offset", "0"), ("length", str(size))):
        text = keys.get(key, default)
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise Refused(f"tensor {tensor.name!r}: external {key} {text[:20]!r} is not a number")
        numbers[key] = int(text)
    if numbers["length"] != size or numbers["offset"] + size > weights[location]:
        raise Refused(
            f"tensor {tensor.name!r}: needs {size} bytes at {numbers['offset']}, which {location!r} does not hold"
        )


def check_node(node: Any, constants: set[str], sizes: dict[str, tuple[int, ...]]) -> None:
    """`constants` are the names whose value is known when the model loads; the node's outputs are added to it."""
    if node.domain not in DOMAINS:
        raise Refused(f"node {node.name!r}: operators of domain {node.domain!r} are not taken")
    if node.op_type in REFUSED_OPERATORS:
        raise Refused(f"node {node.name!r}: operator {node.op_type} is not taken")
    if all(name in constants or not name for name in node.input) and not any(a.HasField("g") for a in node.attribute):
        if node.op_type not in FOLDABLE_OPERATORS:
            raise Refused(
                f"node {node.name!r}: {node.op_type} of constants; store its result as an initializer instead"
            )
        constants.update(node.output)
    if node.op_type in SIZED_OPERATORS and len(node.input) > SIZED_OPERATORS[node.op_type]:
        source = node.input[SIZED_OPERATORS[node.op_type]]
        if source in sizes:
            if prod(max(size, 1) for size in sizes[source]) > TARGET_ELEMENTS_MAX:
                raise Refused(f"node {node.name!r}: {node.op_type} to more than {TARGET_ELEMENTS_MAX} elements")
        elif source in constants:
            raise Refused(f"node {node.name!r}: {node.op_type} to a computed size; store the size as an initializer")


def small_numbers(tensor: Any) -> tuple[int, ...] | None:
    """The values of a tensor that may be a list of sizes."""
    if tensor.data_type != 7 or prod(tensor.dims) > 16 or tensor.data_location == 1 or tensor.external_data:
        return None
    return tuple(int(value) for value in onnx.numpy_helper.to_array(tensor).reshape(-1))


def turn_weights_into_inputs(graph: Any) -> None:
    """ONNX's own checker wants to open files of external weights; to it an input of that type is as good."""
    kept = []
    for tensor in graph.initializer:
        if tensor.data_location == 1:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def check_header(model: Any) -> None:
    """Only the plain kind of model: versions and operator sets that are known, no functions, no training."""
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise Refused("local functions, training steps and sparse initializers are not taken")
    if not 7 <= model.ir_version <= IR_VERSION_MAX:
        raise Refused(f"IR version {model.ir_version}; export it with a version from 7 to {IR_VERSION_MAX}")
    for opset in model.opset_import:
        newest = 1 if opset.domain in {"com.microsoft", "nukkad"} else onnx.defs.onnx_opset_version()
        if opset.domain not in DOMAINS or not 1 <= opset.version <= newest:
            raise Refused(f"operator set {opset.domain or 'ai.onnx'!r} version {opset.version} is not taken")


def check_graphs(model: Any, weights: dict[str, int]) -> int:
    """Every node and tensor of every graph; returns the bytes of all initializers."""
    constants: set[str] = set()
    sizes: dict[str, tuple[int, ...]] = {}
    nodes = tensors = weight_bytes = 0
    for place, graph in enumerate(walk_graphs(model.graph)):
        nodes += len(graph.node)
        tensors += len(graph.initializer)
        if nodes > NODES_MAX or tensors > TENSORS_MAX or len(graph.input) + len(graph.output) > PORTS_MAX:
            raise Refused(f"more than {NODES_MAX} nodes, {TENSORS_MAX} initializers or {PORTS_MAX} inputs and outputs")
        for tensor in graph.initializer:
            weight_bytes += check_tensor(tensor, weights if place == 0 else {})
        for tensor in attribute_tensors(graph):
            check_tensor(tensor, {})
        fixed = {tensor.name: tensor for tensor in graph.initializer}
        fixed |= {
            n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
        }
        constants.update(fixed)
        sizes.update(
            {name: numbers for name, tensor in fixed.items() if (numbers := small_numbers(tensor)) is not None}
        )
        for node in graph.node:
            check_node(node, constants, sizes)
    return weight_bytes


def check_model(data: bytes, weights: dict[str, int]) -> None:
    """Raises Refused."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise Refused("not an ONNX model, or cut short") from error
    check_header(model)
    needed, held = check_graphs(model, weights), len(data) + sum(weights.values())
    if needed > SHARING_MAX * held:
        raise Refused(f"initializers of {needed} bytes together, from files of {held}")
    turn_weights_into_inputs(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Refused(f"not a valid ONNX model: {' '.join(str(error).split())[:300]}") from error


def main() -> None:
    task = json.loads(sys.argv[1])
    limit_process(task["memory_bytes"], task["cpu_s"])
    verdict = {}
    try:
        check_model(sys.stdin.buffer.read(), task["weights"])
    except Refused as refused:
        verdict = {"refused": str(refused)}
    print(json.dumps(verdict))


if __name__ == "__main__":
    main()
