"""Reads a GGUF file of a decoder with the `gguf` package and numpy: seconds, and no torch."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from quantize.sources.bpe import bpe_tokenizer
from quantize.sources.checkpoint import Q4, Q4_BLOCK, Checkpoint, SourceError, Tensor, dense
from quantize.sources.gguf_file import Stored, open_gguf
from quantize.sources.gguf_names import ROPE_FREQUENCIES, Get, read_config, rename_tensor
from quantize.sources.pieces import piece_tokenizer


def read_gguf(path: Path) -> Checkpoint:
    """The checkpoint of a file of a known architecture and tokenizer. Raises SourceError.

    Tensors stay in the file, which must outlive the checkpoint, and are read anew whenever they are asked for: a model
    need not fit into memory in full precision.
    """
    file = open_gguf(path)
    get = partial(_get, file.fields)
    divisors = file.tensors.get(ROPE_FREQUENCIES)
    config = read_config(get, None if divisors is None else dense(_values(divisors)))
    tensors = _Tensors(get("general.architecture"), config, file.tensors)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    return Checkpoint(config, tensors, _tokenizer(get), get("tokenizer.chat_template", None))


_NEEDED = object()


def _get(fields: Mapping[str, Any], key: str, default: Any = _NEEDED) -> Any:
    """A missing key without a default is the file's fault and says so."""
    if key not in fields and default is _NEEDED:
        raise SourceError(f"the GGUF file has no metadata {key!r}")
    return fields.get(key, default)


class _Tensors(Mapping[str, Tensor]):
    """By Hugging Face's names."""

    def __init__(self, architecture: str, config: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
        self._read: dict[str, Callable[[], Tensor]] = {}
        for own, tensor in stored.items():
            if own == ROPE_FREQUENCIES:
                continue
            name = rename_tensor(architecture, own)
            if "{}" in name:
                for expert in range(tensor.shape[0]):
                    self._read[name.format(expert)] = partial(_values, tensor, expert)
            elif architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
                count = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
                self._read[name] = partial(_read_permuted, tensor, count)
            elif architecture == "gemma3" and name.endswith("norm.weight"):
                self._read[name] = partial(_read_norm, tensor)
            else:
                self._read[name] = partial(_values, tensor)

    def __getitem__(self, name: str) -> Tensor:
        return self._read[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._read  # Mapping's own would read the tensor to know.

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def _values(tensor: Stored, expert: int | None = None) -> Tensor:
    """One tensor, or one expert's part of one that holds all of a layer's."""
    kind, raw, shape = tensor.kind, tensor.raw, tensor.shape
    if expert is not None:
        raw, shape = raw[expert], shape[1:]
    if kind in {GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1}:
        return q4_blocks(raw.reshape(shape[0], -1), with_low=kind == GGMLQuantizationType.Q4_1)
    try:
        return np.ascontiguousarray(dequantize(raw, kind), dtype=np.float32).reshape(shape)
    except NotImplementedError:
        raise SourceError(f"the GGUF file holds a tensor of the kind {kind.name}, which cannot be read") from None


def q4_blocks(raw: np.ndarray[Any, np.dtype[np.uint8]], *, with_low: bool) -> Q4:
    """Splits packed rows uint8 [rows, bytes]: per block an f16 scale, an f16 low value (Q4_1 only), 16 bytes of codes.

    Byte j holds weight j in its low and weight j+16 in its high nibble; without a low value the codes are centred on 8.
    """
    width = (4 if with_low else 2) + Q4_BLOCK // 2
    blocks = raw.reshape(raw.shape[0], -1, width)
    scale = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    nibbles = blocks[:, :, -Q4_BLOCK // 2 :]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    if with_low:
        low = np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16)[:, :, 0].astype(np.float32)
    else:
        low = scale * np.float32(-8)
    return Q4(codes, scale, low)


def _read_norm(tensor: Stored) -> Tensor:
    """Of Gemma, whose files keep what a norm multiplies by: one more than what Hugging Face keeps."""
    return dense(_values(tensor)) - np.float32(1)


def _read_permuted(tensor: Stored, heads: int) -> Tensor:
    return _unpermute(_values(tensor), heads)


def _unpermute(tensor: Tensor, heads: int) -> Tensor:
    """GGUF interleaves the two halves that rotary positions turn against each other; Hugging Face keeps them apart."""
    count = tensor.shape[0]
    rows = np.arange(count).reshape(heads, count // heads // 2, 2).swapaxes(1, 2).reshape(-1)
    return tensor.take(rows) if isinstance(tensor, Q4) else tensor[rows]


def _tokenizer(get: Get) -> str:
    kind, tokens = get("tokenizer.ggml.model"), get("tokenizer.ggml.tokens")
    kinds = get("tokenizer.ggml.token_type")
    if kind == "gpt2":
        return bpe_tokenizer(tokens, kinds, merges=get("tokenizer.ggml.merges"), splitting=get("tokenizer.ggml.pre"))
    if kind == "llama":
        space = get("tokenizer.ggml.add_space_prefix", True)
        return piece_tokenizer(tokens, kinds, scores=get("tokenizer.ggml.scores"), space_first=space)
    raise SourceError(f"tokenizer.ggml.model is {kind!r}; only 'gpt2' (byte-level BPE) and 'llama' can be rebuilt")
