from pathlib import Path

import pytest

from appliance.engine.session import ProviderError, open_session
from tests.support.tiny_models import write_embed


def test_a_session_runs_on_what_was_asked_for(tmp_path: Path) -> None:
    graph = write_embed(tmp_path / "embed") / "model.fp32.onnx"
    assert open_session(graph, "CPUExecutionProvider", 1).get_providers() == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_there_is_refused_and_not_replaced(tmp_path: Path) -> None:
    graph = write_embed(tmp_path / "embed") / "model.fp32.onnx"
    with pytest.raises(ProviderError, match="NoSuchExecutionProvider"):
        open_session(graph, "NoSuchExecutionProvider", 1)
