"""Graphs rewritten in the standard's operators compute what they computed before."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, load_model_from_string, save_model

from appliance.engine.lowering import write_standard

WIDTH = 8
SEED = 1


def save(path: Path, *nodes: NodeProto) -> Path:
    names = ("data", "skip", "scale", "shift", "bias")
    shapes = [["T", WIDTH], ["T", WIDTH], [WIDTH], [WIDTH], [WIDTH]]
    inputs = [helper.make_tensor_value_info(*each) for each in zip(names, [TensorProto.FLOAT] * 5, shapes, strict=True)]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["T", WIDTH])
    graph = helper.make_graph(nodes, "tiny", inputs, [output])
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    save_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


def run(source: str | bytes) -> NDArray[np.float32]:
    draw = np.random.default_rng(SEED)
    shapes = {"data": (3, WIDTH), "skip": (3, WIDTH), "scale": (WIDTH,), "shift": (WIDTH,), "bias": (WIDTH,)}
    given = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {each.name: given[each.name] for each in session.get_inputs()})
    return np.asarray(out)


FUSED = "SkipLayerNormalization"
NORM = ["data", "skip", "scale", "shift", "bias"]


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node(FUSED, NORM, ["out"], domain="com.microsoft", epsilon=1e-3)],
        [helper.make_node(FUSED, NORM[:4], ["out"], domain="com.microsoft", epsilon=1e-3)],
        [helper.make_node(FUSED, NORM[:3], ["out"], domain="com.microsoft", epsilon=1e-3)],
        [
            helper.make_node(FUSED, NORM, ["normed", "", "", "sum"], domain="com.microsoft"),
            helper.make_node("Add", ["normed", "sum"], ["out"]),
        ],
        [helper.make_node("LpNormalization", ["data"], ["out"], axis=1, p=2)],
    ],
    ids=["bias", "no bias", "no shift", "the sum is used too", "unit length"],
)
def test_it_computes_the_same_with_the_standards_operators(tmp_path: Path, nodes: list[NodeProto]) -> None:
    path = save(tmp_path / "model.onnx", *nodes)
    written = write_standard(path)
    kinds = {(node.domain, node.op_type) for node in load_model_from_string(written).graph.node}
    assert not kinds & {("com.microsoft", FUSED), ("", "LpNormalization")}
    np.testing.assert_allclose(run(written), run(str(path)), atol=1e-6)


def test_a_length_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", helper.make_node("LpNormalization", ["data"], ["out"], axis=1, p=1))
    assert [node.op_type for node in load_model_from_string(write_standard(path)).graph.node] == ["LpNormalization"]
