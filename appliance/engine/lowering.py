"""A graph in the standard's operators, for providers that know ONNX Runtime's own ones badly or not at all.

Only what a provider was seen to get wrong is rewritten; operators that it does not know fall to the processor inside
its session, which is counted and told.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper, load, numpy_helper

Rewrite = Callable[[NodeProto, str], list[NodeProto]]
LAST, TINY = "standard.last_axis", "standard.tiny"


def write_standard(graph: Path) -> bytes:
    """The graph's bytes, rewritten; its weights stay where they are, in the files beside it."""
    model: ModelProto = load(str(graph), load_external_data=False)
    nodes = []
    for place, node in enumerate(model.graph.node):
        rewrite = REWRITES.get((node.domain, node.op_type))
        nodes += rewrite(node, f"standard.{place}") if rewrite else [node]
    written = ModelProto()
    written.CopyFrom(model)
    del written.graph.node[:]
    written.graph.node.extend(nodes)
    written.graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), LAST))
    written.graph.initializer.append(numpy_helper.from_array(np.array(1e-24, dtype=np.float32), TINY))
    data: bytes = written.SerializeToString()
    return data


def _add_and_norm(node: NodeProto, name: str) -> list[NodeProto]:
    """SkipLayerNormalization. OpenVINO takes its input to have three axes, and packed tokens have two."""
    given = [*node.input, "", ""][:5]
    data, skip, scale, shift, bias = given
    made = []
    if bias:
        made.append(helper.make_node("Add", [data, bias], [f"{name}.biased"]))
        data = f"{name}.biased"
    kept = [*node.output, "", "", ""][3]
    total = kept or f"{name}.sum"
    made.append(helper.make_node("Add", [data, skip], [total]))
    epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-12)
    inputs = [total, scale, *([shift] if shift else [])]
    made.append(helper.make_node("LayerNormalization", inputs, [node.output[0]], axis=-1, epsilon=epsilon))
    return made


def _unit_length(node: NodeProto, name: str) -> list[NodeProto]:
    """LpNormalization of rows to length 1. ONNX Runtime 1.24 has no kernel for its newest version."""
    chosen = {each.name: each.i for each in node.attribute}
    if chosen.get("p", 2) != 2 or chosen.get("axis", -1) not in (-1, 1):
        return [node]
    square, total, positive, length = (f"{name}.{part}" for part in ("square", "total", "positive", "length"))
    return [
        helper.make_node("Mul", [node.input[0], node.input[0]], [square]),
        helper.make_node("ReduceSum", [square, LAST], [total], keepdims=1),
        helper.make_node("Max", [total, TINY], [positive]),
        helper.make_node("Sqrt", [positive], [length]),
        helper.make_node("Div", [node.input[0], length], [node.output[0]]),
    ]


REWRITES: dict[tuple[str, str], Rewrite] = {
    ("com.microsoft", "SkipLayerNormalization"): _add_and_norm,
    ("", "LpNormalization"): _unit_length,
}
