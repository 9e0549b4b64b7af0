import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.engine import lanes
from appliance.engine.decoder import Row
from appliance.engine.lanes import NoLane, Trials, lanes_by_speed, usable_lanes
from appliance.engine.settings import EngineSettings
from kernels.library import NoLibrary
from models.manifest import Geometry, Lane, Manifest, read_manifest
from tests.support.tiny_kernel_decoder import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, save_kernel_decoder
from tests.support.tiny_models import write_chat

SETTINGS = EngineSettings(threads=1, slots=2)
DIGEST = b"\x01" * 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_chat(tmp_path_factory.mktemp("package") / "chat")
    save_kernel_decoder(folder / "model.k8.onnx", 261)
    return folder


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    """Its two lanes are different networks of one shape."""
    plain = read_manifest(folder)
    shape = Geometry(layers=LAYERS, hidden=HIDDEN, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, vocab=261)
    both = {**plain.lanes, "k8": Lane(graph="model.k8.onnx", weights=(), operators="nukkad")}
    return plain.model_copy(update={"lanes": both, "geometry": shape})


def without_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise NoLibrary("none")

    monkeypatch.setattr(lanes, "find_library", find)


def test_the_default_comes_first_and_a_setting_decides(manifest: Manifest) -> None:
    assert usable_lanes(manifest, SETTINGS) == ("fp32", "k8")
    assert usable_lanes(manifest, replace(SETTINGS, lane="k8")) == ("k8",)
    assert usable_lanes(manifest, replace(SETTINGS, lane="q8")) == ("fp32", "k8")  # another package's lane


def test_without_our_operators_others_serve_or_none(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    without_operators(monkeypatch)
    assert usable_lanes(manifest, SETTINGS) == ("fp32",)
    with pytest.raises(NoLane, match="k8"):
        usable_lanes(manifest, replace(SETTINGS, lane="k8"))


def test_on_another_provider_our_operators_do_not_run(manifest: Manifest) -> None:
    assert usable_lanes(manifest, replace(SETTINGS, provider="CUDAExecutionProvider")) == ("fp32",)


def opened(folder: Path, manifest: Manifest, settings: EngineSettings, **changes: Any) -> str:
    return lanes_by_speed(folder, DIGEST, manifest, settings, **changes)[0]


def test_the_fastest_is_found_once_and_kept(
    folder: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only one network of the two fits the geometry, so the trial of a lane is told by the clock instead.
    took = {"fp32": 2.0, "k8": 1.0}
    tried: list[str] = []

    def fake(lane: lanes.OpenLane, _now: object) -> float:
        tried.append(lane.name)
        return took[lane.name]

    monkeypatch.setattr(lanes, "_try", fake)
    settings = replace(SETTINGS, trials=str(tmp_path / "trials.json"))
    assert opened(folder, manifest, settings) == "k8"
    assert opened(folder, manifest, settings) == "k8"
    assert tried == ["fp32", "k8"]
    took["fp32"] = 0.5
    assert opened(folder, manifest, replace(settings, threads=2)) == "fp32"  # another machine, so to say


def test_a_trial_takes_the_least_of_its_times(folder: Path, manifest: Manifest) -> None:
    ticks = itertools.chain.from_iterable(
        (start, start + length) for start, length in ((0.0, 9.0), (20.0, 3.0), (30.0, 5.0))
    )
    lane = lanes.open_lane(folder, manifest, "k8", SETTINGS, 120)
    assert lanes._try(lane, lambda: next(ticks)) == 3.0
    assert np.isfinite(lane.decoder.run([Row(0, [1], 0)])).all()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"x": 1}', b"\xff"])
def test_a_broken_file_of_trials_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trials.json"
    path.write_bytes(content)
    trials = Trials(path)
    assert trials.read(DIGEST, SETTINGS) == {}
    trials.keep(DIGEST, SETTINGS, {"q8": 1.5})
    assert trials.read(DIGEST, SETTINGS) == {"q8": 1.5}


def test_the_file_of_trials_is_bounded(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "trials.json")
    for number in range(lanes.TRIALS_KEPT + 3):
        trials.keep(bytes([number]), SETTINGS, {"q8": 1.0})
    kept = [bool(trials.read(bytes([number]), SETTINGS)) for number in range(lanes.TRIALS_KEPT + 3)]
    assert kept == [False] * 3 + [True] * lanes.TRIALS_KEPT
