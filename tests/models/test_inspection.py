from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from models.errors import UnsafeModel
from models.inspection import inspect_graph, inspect_package
from models.manifest import Lane, read_manifest
from tests.support.tiny_package import DIM, VOCAB, external_tensor, tiny_graph

LANE = Lane(graph="model.int8.onnx", weights=("model.int8.bin",))


def refuse(folder: Path, model: onnx.ModelProto | bytes, reason: str, **limits: Any) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / LANE.graph).write_bytes(data)
    with pytest.raises(UnsafeModel, match=rf"^model\.int8\.onnx: .*{reason}"):
        inspect_graph(folder, LANE, **limits)


def sizes(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def nested(depth: int) -> Any:
    inner = helper.make_graph([], "deepest", [], [])
    for _ in range(depth):
        inner = helper.make_graph(
            [helper.make_node("If", ["c"], ["r"], then_branch=inner, else_branch=inner)], "g", [], []
        )
    return inner.node[0]


def test_an_honest_graph_passes_with_its_own_operators_and_external_weights(folder: Path) -> None:
    inspect_package(folder, read_manifest(folder))


def test_tensors_may_lie_on_the_same_bytes_a_few_times_only(folder: Path) -> None:
    table = (VOCAB, DIM)
    tied = external_tensor("tied", table, "model.int8.bin")
    (folder / LANE.graph).write_bytes(tiny_graph(initializers=[tied]).SerializeToString())
    inspect_graph(folder, LANE)
    rows = 1 << 12
    (folder / "model.int8.bin").write_bytes(bytes(4 * DIM * rows))
    many = [external_tensor(f"w{place}", (rows, DIM), "model.int8.bin") for place in range(5)]
    refuse(folder, tiny_graph(initializers=many), "initializers of")


@pytest.mark.parametrize(
    ("nodes", "initializers", "reason"),
    [
        ([helper.make_node("Relu", ["rows"], ["x"], domain="evil")], [], "domain 'evil'"),
        ([helper.make_node("Loop", ["rows"], ["x"])], [], "operator Loop"),
        ([helper.make_node("EPContext", ["rows"], ["x"], domain="com.microsoft")], [], "operator EPContext"),
        ([nested(4)], [], "nested deeper"),
        (
            [helper.make_node("ConstantOfShape", ["big"], ["x"])],
            [sizes("big", 1 << 33)],
            "ConstantOfShape of constants",
        ),
        ([helper.make_node("RandomNormal", [], ["x"], shape=[1 << 33])], [], "RandomNormal of constants"),
        (
            [helper.make_node("Expand", ["rows", "big"], ["x"])],
            [sizes("big", 1 << 20, 1 << 20, 4)],
            "Expand to more than",
        ),
        (
            [
                helper.make_node("Cast", ["big"], ["cast"], to=TensorProto.INT64),
                helper.make_node("Expand", ["rows", "cast"], ["x"]),
            ],
            [sizes("big", 1 << 40, 1, 4)],
            "Expand to a computed size",
        ),
        ([helper.make_node("Concat", ["a", "a"], ["x"], axis=0)], [sizes("a", 1)], "Concat of constants"),
        ([], [external_tensor("w", (2,), "../../etc/passwd")], "not a weights file"),
        ([], [external_tensor("w", (2,), "/etc/passwd")], "not a weights file"),
        ([], [external_tensor("w", (1 << 40,), "model.int8.bin")], "does not hold"),
        ([], [external_tensor("w", (VOCAB, DIM), "model.int8.bin", offset=4)], "does not hold"),
        ([], [external_tensor("w", (2,), "model.int8.bin", length=4)], "does not hold"),
        ([], [external_tensor("w", (2,), "model.int8.bin", offset=-1)], "is not a number"),
        ([], [external_tensor("w", (2,), "model.int8.bin", basepath=1)], "unknown or repeated keys"),
        ([], [helper.make_tensor("s", TensorProto.STRING, [1], [b"x"])], "element type 8"),
        ([], [TensorProto(name="z", data_type=1, dims=[1 << 40], raw_data=b"1234")], "4 bytes where its shape needs"),
        ([], [TensorProto(name="z", data_type=1, dims=[1 << 40], float_data=[1.0])], "1 values where its shape needs"),
        ([], [TensorProto(name="z", data_type=1, dims=[-1])], "negative size"),
        ([helper.make_node("Relu", ["nowhere"], ["x"])], [], "not a valid ONNX model"),
        ([helper.make_node("MatMul", ["rows"], ["x"])], [], "not a valid ONNX model"),
        (
            [helper.make_node("Constant", [], ["x"], value=external_tensor("w", (2,), "secret"))],
            [],
            "which is not a weights file",
        ),
    ],
)
def test_a_graph_that_may_harm_is_refused(folder: Path, nodes: list[Any], initializers: list[Any], reason: str) -> None:
    refuse(folder, tiny_graph(nodes, initializers), reason)


def test_an_unknown_operator_set_is_refused(folder: Path) -> None:
    refuse(folder, tiny_graph(domain="ai.onnx.ml"), "operator set 'ai.onnx.ml'")


def test_local_functions_are_refused(folder: Path) -> None:
    model = tiny_graph()
    model.functions.append(helper.make_function("f", "F", ["a"], ["b"], [], [helper.make_opsetid("", 21)]))
    refuse(folder, model, "local functions")


@pytest.mark.parametrize("data", [b"not a model", b"\xff" * 100])
def test_what_is_not_onnx_is_refused(folder: Path, data: bytes) -> None:
    refuse(folder, data, "not an ONNX model")


def test_an_empty_file_is_refused(folder: Path) -> None:
    refuse(folder, b"", "IR version 0")


def test_a_cut_graph_is_refused(folder: Path) -> None:
    refuse(folder, tiny_graph().SerializeToString()[:-20], "")


def test_too_many_nodes_are_refused(folder: Path) -> None:
    nodes = [helper.make_node("Relu", ["rows"], [f"x{index}"]) for index in range(20_001)]
    refuse(folder, tiny_graph(nodes), "more than 20000 nodes")


def test_a_graph_that_needs_too_much_memory_kills_only_its_checker(folder: Path) -> None:
    model = tiny_graph(initializers=[helper.make_tensor("w", TensorProto.FLOAT, [4 << 20], bytes(16 << 20), raw=True)])
    refuse(folder, model, "broke its checker", memory_bytes=1 << 20)


def test_a_graph_that_takes_too_long_is_given_up(folder: Path) -> None:
    refuse(folder, tiny_graph(), "still being checked", wall_s=0.01)


def test_a_checker_out_of_processor_time_is_killed(folder: Path) -> None:
    refuse(folder, tiny_graph(), "broke its checker", cpu_s=0)
