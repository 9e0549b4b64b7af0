"""Rotary positions: how far each pair of a head's numbers turns per token, and the tables of that."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quantize.sources.checkpoint import Checkpoint, Floats, SourceError

LOCAL_THETA = 10000.0  # Gemma's, for layers with a window, where a config does not say it.


def read_turns(checkpoint: Checkpoint, head_dim: int, kind: str = "full_attention") -> tuple[float, ...]:
    """Radians per position of each of head_dim / 2 pairs, in layers of a kind. Raises SourceError by field."""
    parameters = _parameters(checkpoint, kind)
    half = head_dim // 2
    turns = [float(parameters["rope_theta"]) ** (-pair / half) for pair in range(half)]
    if parameters.get("partial_rotary_factor", 1) != 1:
        raise SourceError("config.rope_parameters.partial_rotary_factor: only heads that turn as a whole are supported")
    try:
        divisors = _divisors(parameters, turns)
    except KeyError as error:
        raise SourceError(f"config.rope_parameters has no {error.args[0]!r}") from None
    return tuple(turn / divisor for turn, divisor in zip(turns, divisors, strict=True))


def rotary_tables(turns: Sequence[float], positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines [positions, head_dim / 2], computed in float64."""
    angles = np.outer(np.arange(positions), np.array(turns))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _parameters(checkpoint: Checkpoint, kind: str) -> Mapping[str, Any]:
    """Newer configs keep them under rope_parameters, there by kind of layer if these differ; older ones at the top."""
    config = checkpoint.config
    newer = config.get("rope_parameters")
    if newer and kind in newer:
        newer = newer[kind]
    if newer and "rope_theta" in newer:
        return dict(newer)
    if kind == "sliding_attention":
        return {"rope_theta": config.get("rope_local_base_freq", LOCAL_THETA)}
    return {"rope_theta": checkpoint.setting("rope_theta"), **(config.get("rope_scaling") or {}), **(newer or {})}


def _divisors(parameters: Mapping[str, Any], turns: Sequence[float]) -> Sequence[float]:
    """By how much a model that was stretched to more positions turns slower, pair by pair."""
    match parameters.get("rope_type") or parameters.get("type") or "default":
        case "default":
            return [1.0] * len(turns)
        case "linear":
            return [float(parameters["factor"])] * len(turns)
        case "llama3":
            return [_llama3_divisor(parameters, turn) for turn in turns]
        case "divided":  # As GGUF files keep Llama 3's: finished.
            return [float(divisor) for divisor in parameters["divisors"]]
        case other:
            known = "'default', 'linear' and 'llama3'"
            raise SourceError(f"config.rope_parameters.rope_type is {other!r}; a graph can be written for {known} only")


def _llama3_divisor(parameters: Mapping[str, Any], turn: float) -> float:
    """Pairs that turn often within the original length stay as they are, slow ones are divided, between: a blend."""
    times = parameters["original_max_position_embeddings"] * turn / (2 * math.pi)
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    kept = min(max((times - low) / (high - low), 0.0), 1.0)
    return float(1 / (kept + (1 - kept) / parameters["factor"]))
