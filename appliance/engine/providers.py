"""Execution providers: what may run a model instead of the processor, and how each is reached.

A provider comes as a build of ONNX Runtime of its own or as a plug-in beside the box's. Builds exclude each other, so
each lives in an engine environment (`environments.py`). Nothing here imports ONNX Runtime: the box reads it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

CPU = "CPUExecutionProvider"


class ProviderError(RuntimeError):
    """The execution provider asked for is not what a session would run on."""


@dataclass(frozen=True)
class Provider:
    """`name` is ONNX Runtime's own, with the device after a colon where one provider serves several.

    environment: the engine environment it is installed in; None is the box's own.
    plug_in: module of the plug-in beside the box's ONNX Runtime; None where the provider is part of a build.
    options: passed on to the provider as they are.
    standard: graphs are first written in the standard's operators where they use ONNX Runtime's (`lowering.py`).
    tokens: each text is padded to so many, for devices that compile a graph for one shape; None for any shape.
    preload: whether libraries come in wheels of their own, which ONNX Runtime must be told to load.
    families: which models have been seen to run right; others are refused, for a self-test alone proves too little.
    """

    name: str
    environment: str | None
    plug_in: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    standard: bool = True
    tokens: int | None = None
    preload: bool = False
    families: tuple[str, ...] = ("encoder",)

    @property
    def execution(self) -> str:
        """What ONNX Runtime calls it."""
        return self.name.partition(":")[0]

    @property
    def device(self) -> str:
        """CPU, GPU or NPU where the name says so, else empty."""
        return self.name.partition(":")[2]


def _openvino(device: str, tokens: int | None = None) -> Provider:
    return Provider(f"OpenVINOExecutionProvider:{device}", "openvino", options={"device_type": device}, tokens=tokens)


NPU_TOKENS = 128  # Enough for a question and a short passage; what is longer is refused.
PROVIDERS = (
    Provider(CPU, None, standard=False, families=("encoder", "decoder")),
    Provider("CUDAExecutionProvider", "cuda", standard=False, preload=True),
    Provider("NvTensorRTRTXExecutionProvider", "tensorrt-rtx", "onnxruntime_ep_nv_tensorrt_rtx"),
    _openvino("CPU"),
    _openvino("GPU"),
    _openvino("NPU", NPU_TOKENS),
    Provider("QNNExecutionProvider", "qnn", "onnxruntime_qnn", {"backend_type": "htp"}, tokens=NPU_TOKENS),
    Provider("VitisAIExecutionProvider", "vitisai", tokens=NPU_TOKENS),
    Provider("CoreMLExecutionProvider", None, options={"ModelFormat": "MLProgram"}),
    Provider("DmlExecutionProvider", "directml"),
    Provider("MIGraphXExecutionProvider", "migraphx"),
    Provider("WebGpuExecutionProvider", "webgpu", "onnxruntime_ep_webgpu"),
)


def find_provider(name: str) -> Provider:
    """Raises ProviderError that lists what there is."""
    for provider in PROVIDERS:
        if provider.name == name:
            return provider
    known = ", ".join(provider.name for provider in PROVIDERS)
    raise ProviderError(f"there is no provider called {name!r}: choose one of {known}")
