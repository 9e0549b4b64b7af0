import sys
from pathlib import Path

import onnxruntime as ort

from appliance.engine.probe import Question, ask
from appliance.engine.providers import CPU
from tests.engine.conftest import SMALL


def test_a_process_of_its_own_tells_what_runs_where(packages: Path) -> None:
    answer = ask(Path(sys.executable), Question(str(packages), SMALL, (CPU, "CoreMLExecutionProvider")))
    assert (answer["fault"], answer["onnxruntime"]) == (None, ort.__version__)
    assert CPU in answer["providers"]
    rows = {(row["name"], row["provider"]): row for row in answer["packages"]}
    assert len(rows) == 6
    assert rows["tiny-embed", CPU] == {
        "name": "tiny-embed",
        "provider": CPU,
        "lane": "fp32",
        "cpu_nodes": 0,
        "fault": None,
    }
    assert "is not among" in rows["tiny-embed", "CoreMLExecutionProvider"]["fault"]
    assert "not been proven" in rows["tiny-chat", "CoreMLExecutionProvider"]["fault"]


def test_an_environment_that_does_not_answer_says_why(tmp_path: Path) -> None:
    question = Question(str(tmp_path), SMALL, ())
    assert "No such file" in ask(tmp_path / "python", question)["fault"]
    assert ask(Path("/bin/false"), question)["fault"].startswith("it ended with 1")
