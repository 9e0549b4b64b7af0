"""Writes one lane of a checkpoint into a folder, for tests that run it."""

from pathlib import Path

from models.manifest import Geometry
from quantize.graphs.heads import EncoderTask
from quantize.graphs.parts import Graph, WeightsFile
from quantize.lanes import write_lane
from quantize.running import Decoder, Encoder
from quantize.sources.checkpoint import Checkpoint


def write_graph(folder: Path, checkpoint: Checkpoint, lane: str, family: str, task: EncoderTask = "embedding") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{lane}.onnx"
    with WeightsFile(folder / f"{lane}.shared") as shared, WeightsFile(folder / f"{lane}.weights") as own:
        graph = Graph(lane, shared, own)
        write_lane(family, lane, graph, checkpoint, task)
        graph.save(path)
    return path


def geometry_of(checkpoint: Checkpoint) -> Geometry:
    config = checkpoint.config
    return Geometry(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab=config["vocab_size"],
    )


def open_decoder(folder: Path, checkpoint: Checkpoint, lane: str, rows: int, capacity: int = 256) -> Decoder:
    path = write_graph(folder, checkpoint, lane, "decoder")
    return Decoder(path, geometry_of(checkpoint), rows, capacity)


def open_encoder(folder: Path, checkpoint: Checkpoint, lane: str, task: EncoderTask = "embedding") -> Encoder:
    return Encoder(write_graph(folder, checkpoint, lane, "encoder", task))
