import pytest

from appliance.engine.placement import read_placement
from appliance.engine.providers import CPU, PROVIDERS, ProviderError, find_provider


def test_one_provider_is_for_all_packages() -> None:
    placement = read_placement("OpenVINOExecutionProvider:CPU")
    assert placement.of("any", "encoder").name == "OpenVINOExecutionProvider:CPU"
    assert placement.environment == "openvino"


def test_some_packages_may_have_one_of_their_own() -> None:
    placement = read_placement(f"e5=OpenVINOExecutionProvider:NPU, chat={CPU}")
    assert placement.of("e5", "encoder").device == "NPU"
    assert placement.of("chat", "decoder").name == placement.of("other", "decoder").name == CPU
    mixed = read_placement(f"chat={CPU},CUDAExecutionProvider")
    assert mixed.of("other", "encoder").name == "CUDAExecutionProvider"


def test_the_processor_needs_no_environment() -> None:
    assert read_placement(CPU).environment is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "CPUExecutionProvider"),
        ("OpenVINO", "OpenVINOExecutionProvider:GPU"),
        ("e5=Nothing", "Nothing"),
        (f"={CPU}", "NAME=PROVIDER"),
        (f"e5={CPU},e5={CPU}", "NAME=PROVIDER"),
        (f"{CPU},{CPU}", "two providers"),
        ("a=CUDAExecutionProvider,b=WebGpuExecutionProvider", "cuda and webgpu"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, named: str) -> None:
    with pytest.raises(ProviderError, match=named):
        read_placement(text)


def test_a_family_that_was_not_proven_somewhere_is_refused() -> None:
    with pytest.raises(ProviderError, match="chat=CPUExecutionProvider"):
        read_placement("CUDAExecutionProvider").of("chat", "decoder")


def test_providers_have_names_of_their_own() -> None:
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS)
    assert find_provider("OpenVINOExecutionProvider:GPU").execution == "OpenVINOExecutionProvider"
