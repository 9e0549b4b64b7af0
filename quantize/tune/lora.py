"""Low-rank adapters on the linear layers of a Hugging Face encoder: W·x + B·(A·x), with W frozen."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class LowRank(nn.Module):
    """`base` plus a product of two thin matrices that starts at zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, values: Tensor) -> Tensor:
        adapted: Tensor = self.base(values) + values @ self.a.T @ self.b.T
        return adapted


def adapt(model: nn.Module, rank: int, prefixes: tuple[str, ...]) -> list[nn.Parameter]:
    """Freezes the model, puts an adapter over every linear layer below the prefixes, returns what is to be trained."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    trained: list[nn.Parameter] = []
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.startswith(prefixes):
            parent = model.get_submodule(name.rpartition(".")[0])
            adapter = LowRank(module, rank)
            setattr(parent, name.rpartition(".")[2], adapter)
            trained += [adapter.a, adapter.b]
    return trained


def adapters(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LowRank))


def save_adapters(model: nn.Module, path: Path) -> None:
    """float16 tensors `<layer>.weight.a` [rank, in] and `<layer>.weight.b` [out, rank]."""
    tensors = {}
    for name, module in adapters(model):
        tensors[f"{name}.weight.a"] = module.a.detach().half().contiguous()
        tensors[f"{name}.weight.b"] = module.b.detach().half().contiguous()
    save_file(tensors, path)


@torch.no_grad()
def load_adapters(model: nn.Module, path: Path) -> None:
    """Go on from a saved adapter of the same or a lower rank. Raises KeyError for a layer that has no adapter here."""
    tensors = load_file(path)
    there = dict(adapters(model))
    for name in {part.rpartition(".weight.")[0] for part in tensors}:
        a, b = tensors[f"{name}.weight.a"], tensors[f"{name}.weight.b"]
        there[name].a[: len(a)] = a.float()
        there[name].b[:, : b.shape[1]] = b.float()
