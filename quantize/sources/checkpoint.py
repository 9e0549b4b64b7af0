"""One neutral form for whatever a source holds: tensors, a config and a tokenizer, in Hugging Face's naming."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Q4_BLOCK = 32


class SourceError(Exception):
    """A source cannot be read or lacks something. The message names the part at fault and what to do."""


@dataclass(frozen=True)
class Q4:
    """A matrix [rows, columns] as the source's own 4-bit blocks of 32, so that a 4-bit lane can keep them exactly.

    `codes` uint8 0..15 [rows, blocks, 32]; value = code * scale + low, with `scale` and `low` float32 [rows, blocks].
    """

    codes: NDArray[np.uint8]
    scale: Floats
    low: Floats

    @property
    def shape(self) -> tuple[int, int]:
        rows, blocks, width = self.codes.shape
        return rows, blocks * width

    def dense(self) -> Floats:
        values = self.codes.astype(np.float32)
        values *= self.scale[:, :, None]
        values += self.low[:, :, None]
        return values.reshape(self.shape)

    def take(self, rows: NDArray[np.int64]) -> "Q4":
        """The same matrix with its rows reordered."""
        return Q4(self.codes[rows], self.scale[rows], self.low[rows])


Tensor = Floats | Q4


def dense(tensor: Tensor) -> Floats:
    return tensor.dense() if isinstance(tensor, Q4) else tensor


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of several matrices one under another; exact 4-bit blocks survive if every part has them."""
    parts = [t for t in tensors if isinstance(t, Q4)]
    if len(parts) == len(tensors):
        return Q4(
            np.concatenate([p.codes for p in parts]),
            np.concatenate([p.scale for p in parts]),
            np.concatenate([p.low for p in parts]),
        )
    return np.concatenate([dense(t) for t in tensors])


@dataclass(frozen=True)
class Checkpoint:
    """`config` is a Hugging Face config.json; `tokenizer` the text of a tokenizer.json; matrices are [out, in]."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: str
    chat_template: str | None = None

    def tensor(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError:
            raise SourceError(
                f"the source has no tensor {name!r}; is it the architecture that the recipe says?"
            ) from None

    def vector(self, name: str) -> Floats:
        return dense(self.tensor(name))

    def setting(self, name: str) -> Any:
        try:
            return self.config[name]
        except KeyError:
            raise SourceError(f"the source's config has no {name!r}") from None
