"""One neutral form for whatever a source holds: tensors, a config and a tokenizer, in Hugging Face's naming."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    _read: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def tensor(self, name: str) -> Tensor:
        self._read.add(name)
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

    def expect(self, assumed: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuses by name a config that says anything else. A field that is left out has the first of its values."""
        for name, allowed in assumed.items():
            value = self.config.get(name, allowed[0])
            if value not in allowed:
                known = ", ".join(map(repr, allowed))
                raise SourceError(f"config.{name} is {value!r}; a graph can be written for {known} only")

    def refuse_unread(self, needless: Sequence[str]) -> None:
        """Every tensor must have been read or match a pattern of `needless`: else the graph computes something else."""
        unread = [
            name
            for name in sorted(self.tensors.keys() - self._read)
            if not any(re.fullmatch(pattern, name) for pattern in needless)
        ]
        if unread:
            more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
            raise SourceError(
                f"the source has a tensor {unread[0]!r}{more} that no graph here would use; is it another architecture?"
            )
