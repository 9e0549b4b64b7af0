"""What a lane's name stands for: whose operators its graph is written with, and how it keeps the weights."""

from collections.abc import Mapping
from typing import Literal

from quantize.graphs.decoder import build_decoder
from quantize.graphs.encoder import build_encoder
from quantize.graphs.heads import EncoderTask
from quantize.graphs.kernel_decoder import build_kernel_decoder
from quantize.graphs.parts import Graph
from quantize.lower import LOWERINGS
from quantize.sources.checkpoint import Checkpoint

_KERNEL_BITS: Mapping[str, int] = {"k8": 8, "k4": 4}


def operators_of(lane: str) -> Literal["onnx", "nukkad"]:
    return "nukkad" if lane in _KERNEL_BITS else "onnx"


def shared_weights(lane: str) -> str:
    """The file of constants that lanes on the same operators share."""
    return f"model.{operators_of(lane)}.weights"


def write_lane(family: str, lane: str, graph: Graph, checkpoint: Checkpoint, task: EncoderTask = "embedding") -> None:
    """`task`: what an encoder's head is for. Raises SourceError for what the lane's graph cannot be written for."""
    if lane in _KERNEL_BITS:
        build_kernel_decoder(graph, checkpoint, _KERNEL_BITS[lane])
    elif family == "decoder":
        build_decoder(graph, checkpoint, LOWERINGS[lane](graph))
    else:
        build_encoder(graph, checkpoint, LOWERINGS[lane](graph), task)
