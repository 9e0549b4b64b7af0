"""Opening an ONNX Runtime session: what it may use is said in full, and nothing else is accepted silently."""

from pathlib import Path

import onnxruntime as ort

ERRORS_ONLY = 3
# Long enough to bridge the gap between two of the several hundred small nodes of a step, short enough to be out of the
# way of other processes. Measured on two cores with SmolLM2-135M, best and median step for one stream: never spinning
# 7.3 and 9.5 ms, 10 µs 5.9 and 10 ms, the default 5.9 ms but, with other work on the box, a median of 19 ms.
SPIN_US = 10


class ProviderError(RuntimeError):
    """The execution provider asked for is not what a session would run on."""


def open_session(graph: Path, provider: str, threads: int, operators: Path | None = None) -> ort.InferenceSession:
    """A session on exactly `provider`, with weights mapped from the files beside the graph.

    `operators`: the library of our own operators, for a graph that is written with them.

    Threads spin for moments only, and never once a step is over: an idle box uses no CPU.
    Raises ProviderError when the provider is missing: ONNX Runtime itself would only warn and fall back.
    """
    if provider not in ort.get_available_providers():
        raise ProviderError(
            f"{provider} is not among {ort.get_available_providers()}: install its runtime or choose one"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if operators is not None:
        options.register_custom_ops_library(str(operators))
    session = ort.InferenceSession(str(graph), options, providers=[provider])
    used = session.get_providers()
    if used[0] != provider:
        raise ProviderError(f"asked for {provider}, got {used}: refusing to serve on something else")
    return session
