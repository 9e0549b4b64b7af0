"""An encoder with adapters on its upper layers. The lower ones stay as they are, so a text passes them once."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import BertConfig, BertModel

from quantize.sources.checkpoint import Checkpoint, dense
from quantize.tune.lora import adapt

GROUP = 16  # texts of like length that are trained on together: little of a matrix is padding
PASS_GROUP = 48  # the same without gradients, which take most of the memory
STEP = 8  # lengths are rounded up to it: PyTorch compiles a kernel for every shape it meets


class Trainee:
    def __init__(self, checkpoint: Checkpoint, rank: int, first_layer: int) -> None:
        """Layers from `first_layer` on get adapters of this rank; `trained` are their parameters."""
        self._tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = {**checkpoint.config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        # Short texts: plain matrix products are three times as fast here as PyTorch's flash attention on a CPU.
        self.model = BertModel(BertConfig(**config, attn_implementation="eager"), add_pooling_layer=False)
        weights = {name: torch.from_numpy(np.array(dense(tensor))) for name, tensor in checkpoint.tensors.items()}
        self.model.load_state_dict(weights, strict=False)
        layers = self.model.encoder.layer
        prefixes = tuple(f"encoder.layer.{number}." for number in range(first_layer, len(layers)))
        self.trained = adapt(self.model, rank, prefixes)
        self._lower, self._upper = layers[:first_layer], layers[first_layer:]
        self._passed: dict[str, torch.Tensor] = {}

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [texts, hidden]."""
        self.pass_lower(texts)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        groups = [order[start : start + GROUP] for start in range(0, len(order), GROUP)]
        vectors = torch.cat([self._pass_upper([texts[place] for place in group]) for group in groups])
        return vectors[torch.tensor(order).argsort()]

    @torch.no_grad()
    def pass_lower(self, texts: Iterable[str]) -> None:
        """Take texts through the layers that do not change; what passed before is kept in memory."""
        fresh = sorted(set(texts) - self._passed.keys(), key=len)
        for start in range(0, len(fresh), PASS_GROUP):
            group = fresh[start : start + PASS_GROUP]
            ids = [self._tokenizer.encode(text).ids for text in group]
            padded = torch.zeros(len(ids), _rounded(max(map(len, ids))), dtype=torch.long)
            for row, numbers in enumerate(ids):
                padded[row, : len(numbers)] = torch.tensor(numbers)
            values = self.model.embeddings(input_ids=padded)
            spread = _spread(_mask(list(map(len, ids))))
            for layer in self._lower:
                values = _states(layer(values, spread))
            for text, states, numbers in zip(group, values, ids, strict=True):
                self._passed[text] = states[: len(numbers)].to(torch.bfloat16, copy=True)

    def _pass_upper(self, texts: Sequence[str]) -> torch.Tensor:
        states = [self._passed[text] for text in texts]
        mask = _mask(list(map(len, states)))
        values = torch.zeros(*mask.shape, states[0].shape[1])
        for row, state in enumerate(states):
            values[row, : len(state)] = state
        spread = _spread(mask)
        for layer in self._upper:
            values = _states(layer(values, spread))
        weights = mask[..., None]
        return functional.normalize((values * weights).sum(1) / weights.sum(1), dim=-1)


def _rounded(length: int) -> int:
    return -(-length // STEP) * STEP


def _mask(lengths: Sequence[int]) -> torch.Tensor:
    """[texts, longest]: 1 where there is a token."""
    return (torch.arange(_rounded(max(lengths))) < torch.tensor(lengths)[:, None]).float()


def _spread(mask: torch.Tensor) -> torch.Tensor:
    """As attention takes it: 0 where a token may be looked at, the lowest number where not."""
    return torch.where(mask[:, None, None, :] > 0, 0.0, torch.finfo(torch.float32).min)


def _states(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return answer if isinstance(answer, torch.Tensor) else answer[0]
