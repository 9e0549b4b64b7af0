"""Opening an ONNX Runtime session: what it may use is said in full, and nothing else is accepted silently."""

from pathlib import Path

import onnxruntime as ort

ERRORS_ONLY = 3


class ProviderError(RuntimeError):
    """The execution provider asked for is not what a session would run on."""


def open_session(graph: Path, provider: str, threads: int) -> ort.InferenceSession:
    """A session on exactly `provider`, with weights mapped from the files beside the graph.

    Threads spin only while a step runs (`force_spinning_stop`), so an idle box uses no CPU; without spinning at all the
    several hundred small nodes of a step would each pay for waking them.
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
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(str(graph), options, providers=[provider])
    used = session.get_providers()
    if used[0] != provider:
        raise ProviderError(f"asked for {provider}, got {used}: refusing to serve on something else")
    return session
