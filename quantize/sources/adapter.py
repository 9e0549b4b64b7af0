"""Merges a low-rank adapter into the weights it was trained on, so that serving knows nothing of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from quantize.sources.checkpoint import Checkpoint, SourceError, dense
from quantize.sources.safetensors import read_safetensors


def merge_adapter(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Weight + b·a for each pair `NAME.a` [rank, in], `NAME.b` [out, rank] of a safetensors file. Raises SourceError.

    Merged matrices leave their 4-bit blocks. The product is taken in float64, so that every machine rounds it alike.
    """
    parts = dict(read_safetensors(path))
    tensors = dict(checkpoint.tensors)
    for name in sorted({part.rpartition(".")[0] for part in parts}):
        weight = dense(checkpoint.tensor(name))
        try:
            change = parts.pop(f"{name}.b").astype(np.float64) @ parts.pop(f"{name}.a").astype(np.float64)
        except KeyError as error:
            raise SourceError(f"{path.name}: no tensor {error.args[0]!r} to go with its other half") from None
        except ValueError:
            raise SourceError(f"{path.name}: the two halves of {name!r} do not fit together") from None
        if change.shape != weight.shape:
            raise SourceError(f"{path.name}: {name!r} is {change.shape}, the weights are {weight.shape}")
        tensors[name] = (weight + change).astype(np.float32)
    if parts:
        raise SourceError(f"{path.name}: {sorted(parts)[0]!r} is neither NAME.a nor NAME.b of a pair")
    return replace(checkpoint, tensors=tensors)
