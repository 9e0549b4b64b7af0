"""One operator run by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from kernels.library import DOMAIN

Array = NDArray[Any]
KINDS = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}
ERRORS_ONLY = 4


@dataclass(frozen=True)
class Operators:
    library: Path

    def run(
        self,
        kind: str,
        inputs: Sequence[Array | None],
        outputs: Sequence[type | Array],
        threads: int = 2,
        **attributes: Any,
    ) -> list[Array]:
        """Outputs of one node, given by type, or as the array whose memory the output is. An input None is left out.

        Raises what ONNX Runtime raises for a refusal.
        """
        names = [f"in{place}" if value is not None else "" for place, value in enumerate(inputs)]
        results = [f"out{place}" for place in range(len(outputs))]
        given: Mapping[str, Array] = {
            name: value for name, value in zip(names, inputs, strict=True) if value is not None
        }
        session = self._session(
            helper.make_node(kind, names, results, domain=DOMAIN, **attributes), given, outputs, threads
        )
        binding = session.io_binding()
        for name, value in given.items():
            binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        for name, output in zip(results, outputs, strict=True):
            if isinstance(output, np.ndarray):
                binding.bind_output(name, "cpu", 0, output.dtype.type, output.shape, output.ctypes.data)
            else:
                binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        return [value.numpy() for value in binding.get_outputs()]

    def _session(self, node: Any, given: Mapping[str, Array], outputs: Sequence[type | Array], threads: int) -> Any:
        graph = helper.make_graph(
            [node],
            node.op_type,
            [
                helper.make_tensor_value_info(name, KINDS[value.dtype.name], [None] * value.ndim)
                for name, value in given.items()
            ],
            [
                helper.make_tensor_value_info(
                    name, KINDS[output.dtype.name if isinstance(output, np.ndarray) else np.dtype(output).name], None
                )
                for name, output in zip(node.output, outputs, strict=True)
            ],
        )
        imports = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = ERRORS_ONLY
        options.register_custom_ops_library(str(self.library))
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def read_rows(rows: Array) -> NDArray[np.float32]:
    """Numbers [T, K] of quantized rows [T, K / 32 * 40]."""
    blocks = rows.reshape(rows.shape[0], -1, 40)
    codes = blocks[:, :, :32].view(np.int8).astype(np.float32)
    scale = np.ascontiguousarray(blocks[:, :, 32:36]).view(np.float32)
    sums = np.ascontiguousarray(blocks[:, :, 36:]).view(np.int32)
    assert np.array_equal(sums[:, :, 0], codes.sum(axis=2))
    return (codes * scale).reshape(rows.shape[0], -1)
