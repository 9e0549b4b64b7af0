import os
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.settings import EngineSettings, physical_cores


def test_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    for cpu in allowed:
        siblings = tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        siblings.parent.mkdir(parents=True)
        siblings.write_text("all of them\n")
    assert physical_cores(tmp_path) == 1


def test_where_the_system_says_nothing_every_processor_is_a_core(tmp_path: Path) -> None:
    assert physical_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "field", ["threads", "slots", "context_tokens", "prefill_tokens", "batch_tokens", "patience_beats"]
)
def test_a_bound_of_nothing_is_refused_by_name(field: str) -> None:
    nothing: dict[str, Any] = {field: 0}
    with pytest.raises(ValueError, match=field):
        EngineSettings(**nothing)


def test_a_queue_may_be_empty_but_not_less() -> None:
    assert EngineSettings(queue=0).queue == 0
    with pytest.raises(ValueError, match="queue"):
        EngineSettings(queue=-1)
