"""Opening an ONNX Runtime session: what it may use is said in full, and nothing else is accepted silently."""

import importlib
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from appliance.engine.providers import CPU, Provider, ProviderError, find_provider

__all__ = ["GraphUnknown", "ProviderError", "count_nodes", "open_session", "plugged_in"]

ERRORS_ONLY = 3
# Long enough to bridge the gap between two of the several hundred small nodes of a step, short enough to be out of the
# way of other processes. Measured on two cores with SmolLM2-135M, best and median step for one stream: never spinning
# 7.3 and 9.5 ms, 10 µs 5.9 and 10 ms, the default 5.9 ms but, with other work on the box, a median of 19 ms.
SPIN_US = 10


class GraphUnknown(ProviderError):
    """This build of ONNX Runtime does not know what the graph is written with."""


def open_session(graph: Path, provider: str, threads: int, operators: Path | None = None) -> ort.InferenceSession:
    """A session on exactly `provider`, with weights mapped from the files beside the graph.

    `operators`: the library of our own operators, for a graph that is written with them.

    Threads spin for moments only, and never once a step is over: an idle box uses no CPU.
    Raises ProviderError when the provider is missing or would run no node: ONNX Runtime itself would only warn, and
    run the whole on the processor. Single nodes may still fall there: `count_nodes` tells how many. Raises GraphUnknown
    when this build is too old for the graph.
    """
    chosen = find_provider(provider)
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
    try:
        return _open(graph, chosen, options)
    except (InvalidGraph, NoKernel) as error:
        raise GraphUnknown(f"ONNX Runtime {ort.__version__} does not know {graph.name}: {str(error)[:500]}") from None


def _open(graph: Path, chosen: Provider, options: ort.SessionOptions) -> ort.InferenceSession:
    if chosen.name == CPU:
        return ort.InferenceSession(str(graph), options, providers=[CPU])
    if chosen.tokens is not None:
        for name, size in (("B", 1), ("S", chosen.tokens), ("T", chosen.tokens)):
            options.add_free_dimension_override_by_name(name, size)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = _open_elsewhere(graph, chosen, options)
    used = session.get_providers()
    if used[0] != chosen.execution or not count_nodes(session).get(chosen.execution):
        raise ProviderError(f"asked for {chosen.name}, got {used}: refusing to serve on something else")
    return session


def count_nodes(session: ort.InferenceSession) -> dict[str, int]:
    """Nodes by the provider that runs them, by ONNX Runtime's names; only of a session that is not all CPU."""
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def _open_elsewhere(graph: Path, provider: Provider, options: ort.SessionOptions) -> ort.InferenceSession:
    named = None
    if provider.preload:
        ort.preload_dlls()
    if provider.plug_in is None:
        if provider.execution not in ort.get_available_providers():
            raise ProviderError(
                f"{provider.name} is not among {ort.get_available_providers()}: `nukkad devices` tells what is"
            )
        named = [(provider.execution, dict(provider.options))]
    else:
        options.add_provider_for_devices(plugged_in(provider), dict(provider.options))
    source: str | bytes = str(graph)
    if provider.standard:
        from appliance.engine.lowering import write_standard  # noqa: PLC0415 - a box on its processor never loads onnx

        source = write_standard(graph)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    return ort.InferenceSession(source, options, providers=named)


def plugged_in(provider: Provider) -> list[ort.OrtEpDevice]:
    """Devices that the plug-in found, at least one. Raises ProviderError."""
    assert provider.plug_in
    try:
        module = importlib.import_module(provider.plug_in)
    except ImportError as error:
        raise ProviderError(f"{provider.name}: {error}; `nukkad devices install {provider.environment}`") from None
    if not any(device.ep_name == provider.execution for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(provider.execution, module.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == provider.execution]
    if not devices:
        raise ProviderError(f"{provider.name} is installed and sees no device of its kind on this machine")
    return devices[:1]
