"""Which of a package's lanes serves: the one that this machine runs fastest, found by trying each once.

The policy is exact: one lane computes everything of a model, so an answer never depends on what else goes on. Which
lane it is depends on the machine alone; every lane in a package has passed its quality gate.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
from pydantic import TypeAdapter, ValidationError

from appliance.engine.cache import Cache
from appliance.engine.decoder import Decoder, Row, plain_tile
from appliance.engine.kernel_decoder import KernelDecoder, kernel_tile
from appliance.engine.scheduler import Steps
from appliance.engine.session import GraphUnknown, open_session
from appliance.engine.settings import EngineSettings
from kernels.library import NoLibrary, find_library
from models.manifest import Lane, Manifest

CPU_PROVIDER = "CPUExecutionProvider"
AUTO = "auto"
# One trial: a prompt of so many tokens, then answers of so many, alone and side by side.
PROMPT, ANSWER, SIDE_BY_SIDE, TIMES = 64, 8, 4, 3
TRIALS_KEPT = 64  # Entries of the file; the oldest go.
_KEPT = TypeAdapter(dict[str, dict[str, float]])


class NoLane(Exception):
    """No lane of the package can run on this machine as it is set up. The message says why."""


@dataclass(frozen=True)
class OpenLane:
    name: str
    decoder: Steps
    cache: Cache


def open_lane(folder: Path, manifest: Manifest, name: str, settings: EngineSettings, capacity: int) -> OpenLane:
    """Raises NoLibrary, ProviderError or what ONNX Runtime raises for a graph it cannot open."""
    lane, shape = manifest.lanes[name], manifest.geometry
    own = lane.operators == "nukkad"
    session = open_session(folder / lane.graph, settings.provider, settings.threads, find_library() if own else None)
    tile = kernel_tile(shape.head_dim) if own else plain_tile(shape.head_dim)
    cache = Cache(shape.layers, settings.slots, shape.kv_heads, capacity, tile)
    decoder = KernelDecoder(session, cache, shape.vocab) if own else Decoder(session, cache, shape.vocab)
    return OpenLane(name, decoder, cache)


def usable_lanes(manifest: Manifest, settings: EngineSettings) -> tuple[str, ...]:
    """The package's default first. Raises NoLane."""
    names = [manifest.default_lane, *(name for name in sorted(manifest.lanes) if name != manifest.default_lane)]
    if settings.lane != AUTO and settings.lane in manifest.lanes:
        names = [settings.lane]
    usable = tuple(name for name in names if _is_usable(manifest.lanes[name], settings))
    if not usable:
        raise NoLane(f"its lanes ({', '.join(names)}) need our own operators on {CPU_PROVIDER}: compile them with make")
    return usable


def lanes_by_speed(
    folder: Path,
    digest: bytes,
    manifest: Manifest,
    settings: EngineSettings,
    now: Callable[[], float] = time.perf_counter,
) -> tuple[str, ...]:
    """Usable lanes, the one that this machine runs fastest first; `now` gives seconds. Raises as `open_lane` does.

    A lane that this build of ONNX Runtime does not know is left out where there is another.
    """
    capacity = min(manifest.context_tokens, settings.context_tokens)
    names = usable_lanes(manifest, settings)
    if len(names) == 1:
        return names
    trials = Trials(Path(settings.trials) if settings.trials else None)
    seconds = trials.read(digest, settings)
    if not seconds or not seconds.keys() <= set(names):
        unknown: GraphUnknown | None = None
        for name in names:
            try:
                seconds[name] = _try(open_lane(folder, manifest, name, settings, capacity), now)
            except GraphUnknown as error:
                unknown = error
        if unknown and not seconds:
            raise unknown
        trials.keep(digest, settings, seconds)
    return tuple(sorted(seconds, key=lambda name: seconds[name]))


class Trials:
    """What each lane took on this machine, in a file, so that a box finds out once. A broken file is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self, digest: bytes, settings: EngineSettings) -> dict[str, float]:
        """Seconds by lane; nothing if it was not tried like this."""
        return self._all().get(_machine(digest, settings), {})

    def keep(self, digest: bytes, settings: EngineSettings, seconds: Mapping[str, float]) -> None:
        if self._path is None:
            return
        known = self._all() | {_machine(digest, settings): dict(seconds)}
        kept = dict(list(known.items())[-TRIALS_KEPT:])
        unfinished = self._path.with_name(f".{self._path.name}")
        unfinished.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        unfinished.replace(self._path)

    def _all(self) -> dict[str, dict[str, float]]:
        try:
            return _KEPT.validate_json(self._path.read_bytes()) if self._path else {}
        except (FileNotFoundError, ValidationError):
            return {}


def _machine(digest: bytes, settings: EngineSettings) -> str:
    """What a trial's outcome hangs on."""
    try:
        operators = find_library().stem
    except NoLibrary:
        operators = "none"
    return f"{digest.hex()} {settings.provider} {ort.__version__} {operators} {settings.threads} threads"


def _try(lane: OpenLane, now: Callable[[], float]) -> float:
    """Seconds that the steps of a typical call take: the least of a few times, for others may use the machine too."""
    side_by_side = min(SIDE_BY_SIDE, lane.cache.slots)
    prompt = [0] * min(PROMPT, lane.cache.capacity - ANSWER)
    times = []
    for _ in range(TIMES):
        start = now()
        for slot in range(side_by_side):
            lane.decoder.run([Row(slot, prompt, 0)])
        for place in range(len(prompt), len(prompt) + ANSWER):
            lane.decoder.run([Row(0, [0], place)])
            lane.decoder.run([Row(slot, [0], place) for slot in range(side_by_side)])
        times.append(now() - start)
    return min(times)


def _is_usable(lane: Lane, settings: EngineSettings) -> bool:
    if lane.operators == "onnx":
        return True
    try:
        return settings.provider == CPU_PROVIDER and find_library().is_file()
    except NoLibrary:
        return False
