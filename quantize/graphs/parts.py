"""A small writer of ONNX graphs: nodes in order, large constants in files beside the graph that can be mapped."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, StringStringEntryProto, TensorProto, checker, helper, numpy_helper

Array = NDArray[Any]

CONTRIB = "com.microsoft"
IR_VERSION = 10
OPSET = 23
_PAGE = 4096  # External tensors start on a page, so that ONNX Runtime can map them instead of reading them.
_INLINE_BYTES_MAX = 1024

FLOAT, INT32, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8


class WeightsFile:
    """Appends tensors page by page; the same bytes are kept once, whatever name or shape they are given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, array: Array) -> tuple[int, int]:
        """Where the bytes lie: offset and length."""
        data = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(data).digest()
        if digest not in self._places:
            self._file.seek(-(-self._file.tell() // _PAGE) * _PAGE)
            self._places[digest] = (self._file.tell(), len(data))
            self._file.write(data)
        return self._places[digest]


class Graph:
    """Collects a graph. Names are numbered in the order of making, so the same steps give the same bytes."""

    def __init__(self, name: str, shared: WeightsFile, own: WeightsFile) -> None:
        """Constants go to the lane's `own` file unless they are asked to be shared between lanes."""
        self._name = name
        self._files = {True: shared, False: own}
        self._count = 0
        self._nodes: list[Any] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inline: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: Sequence[int | str]) -> None:
        self._outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def constant(self, array: Array, *, shared: bool = False) -> str:
        if array.nbytes <= _INLINE_BYTES_MAX:
            return self._small(array)
        file = self._files[shared]
        offset, length = file.add(array)
        name = self._next("weight")
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file.path.name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.append(StringStringEntryProto(key=key, value=value))
        self._initializers[name] = tensor
        return name

    def integers(self, *values: int) -> str:
        """A constant int64 vector: sizes, axes."""
        return self._small(np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self._small(np.array(value, np.float32))

    def node(
        self, kind: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Adds a node; `outputs` is how many, or their names ("" leaves an optional one out)."""
        names = [self._next(kind.lower()) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self._nodes.append(helper.make_node(kind, list(inputs), names, domain=domain, **attributes))
        return names

    def one(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node of one output: its name."""
        return self.node(kind, inputs, 1, domain, **attributes)[0]

    def fresh(self, hint: str) -> str:
        return self._next(hint)

    def save(self, path: Path) -> None:
        """Writes the graph; its constants must lie in the same folder."""
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        domains = sorted({node.domain for node in self._nodes} - {""})
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model: ModelProto = helper.make_model(graph, opset_imports=opsets, producer_name="nukkad")
        model.ir_version = IR_VERSION
        path.write_bytes(model.SerializeToString(deterministic=True))
        checker.check_model(path)

    def _small(self, array: Array) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._inline:
            name = self._next("constant")
            self._initializers[name] = numpy_helper.from_array(array, name)
            self._inline[key] = name
        return self._inline[key]

    def _next(self, hint: str) -> str:
        self._count += 1
        return f"{hint}_{self._count}"


def unpad(graph: Graph, padded: str, pack_idx: str, width: int) -> str:
    """From [B, S, width] back to the step's packed tokens [T, width]."""
    rows = graph.one("Reshape", padded, graph.integers(-1, width))
    return graph.one("Gather", rows, pack_idx, axis=0)
