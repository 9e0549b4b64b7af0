"""A mixture of experts in a decoder: each token is computed by the few experts that its router chooses, no others."""

import numpy as np

from quantize.experts import ExpertWeights
from quantize.graphs.families import Experts
from quantize.graphs.parts import Graph
from quantize.lower import Lowering
from quantize.sources.checkpoint import Checkpoint, dense


def write_experts(
    graph: Graph, lowering: Lowering, values: str, *, checkpoint: Checkpoint, experts: Experts, prefix: str
) -> str:
    """[T, hidden] → [T, hidden].

    A token's choices are rows of their own, each for one expert, and are summed here in the order of their shares:
    inside one node for all they would be summed in an order that depends on the step's other tokens.
    """
    count, chosen = experts.count, experts.chosen
    router = dense(checkpoint.tensor(f"{prefix}.gate.weight"))  # It decides, and it is small, so it is never rounded.
    shares = graph.one("Gemm", values, graph.constant(router, shared=True), transB=1)
    # Over the chosen alone, softmax gives what it gives over all, brought to a sum of one.
    if not experts.to_one:
        shares = graph.one("Softmax", shares, axis=-1)
    shares, choice = graph.node("TopK", [shares, graph.integers(chosen)], 2, axis=-1)
    if experts.to_one:
        shares = graph.one("Softmax", shares, axis=-1)
    weights = ExpertWeights(
        *(
            [checkpoint.tensor(f"{prefix}.experts.{expert}.{part}_proj.weight") for expert in range(count)]
            for part in ("gate", "up", "down")
        )
    )
    hidden = router.shape[1]
    rows = graph.one("Reshape", graph.one("Concat", *[values] * chosen, axis=1), graph.integers(-1, hidden))
    flags = graph.constant(np.array([0, 1], np.float32))
    marks = graph.one("OneHot", graph.one("Reshape", choice, graph.integers(-1)), graph.integers(count), flags)
    computed = lowering.experts(rows, marks, weights)
    computed = graph.one("Reshape", computed, graph.integers(-1, chosen, hidden))
    summed = graph.one("MatMul", graph.one("Reshape", shares, graph.integers(-1, 1, chosen)), computed)
    return graph.one("Reshape", summed, graph.integers(-1, hidden))
