"""The engine's bounds. The box's settings fill them from the environment; the child receives them whole."""

import os
from dataclasses import dataclass, field
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")


def physical_cores(cpus: Path = CPUS) -> int:
    """Cores this process may use, each counted once however many hardware threads it has."""
    allowed = os.sched_getaffinity(0)
    cores = set()
    for cpu in allowed:
        siblings = cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return len(cores)


def share_of_memory(pages: int | None = None) -> int:
    """A quarter of the machine's memory, 2 GiB at most. `pages`: how many it has, if not this machine's."""
    pages = os.sysconf("SC_PHYS_PAGES") if pages is None else pages
    return min(pages * os.sysconf("SC_PAGE_SIZE") // 4, 2 << 30)


@dataclass(frozen=True)
class EngineSettings:
    """What the engine may use. Every field is a bound, and each is enforced in the child."""

    threads: int = field(default_factory=physical_cores)
    """Threads of one matmul; more than the physical cores only slows it down."""
    slots: int = 16
    """Sequences held, per decoder: those under way, and finished ones whose rows others may go on from."""
    cache_bytes: int = field(default_factory=share_of_memory)
    """Memory for keys and values, per decoder. A call waits until all that it may need is free."""
    share_prefixes: bool = False
    """Whether prompts of different keys may share what they begin with: faster, but a caller can find out."""
    queue: int = 32
    """Calls that may wait, per model, before the next one is refused as `Overloaded`."""
    context_tokens: int = 8192
    """Longest prompt plus answer; a model with a shorter context keeps its own."""
    prefill_tokens: int = 128
    """Prompt tokens taken in one step: what a long prompt may delay everybody else by."""
    batch_tokens: int = 1024
    """Padded tokens of one encoder batch: what a bulk of texts may delay a single one by."""
    lane: str = "auto"
    """Which lane of a package serves, where it has one of this name; "auto" tries each once and takes the fastest."""
    trials: str | None = None
    """File that keeps what the trials of lanes took; without one they are tried at every start."""
    provider: str = "CPUExecutionProvider"
    """Which execution provider runs which package (`placement.py`); what cannot run there does not serve."""
    beat_s: float = 1.0
    """How often the child says that it is alive."""
    patience_beats: int = 15
    """Beats that may be missed before the child counts as hung and is killed."""
    step_s: float = 60.0
    """A single step longer than this counts as hung: the child stops beating."""
    load_s: float = 120.0
    """A package that takes longer to load counts as hung."""
    drain_s: float = 10.0
    """How long a stopping child lets running calls finish."""
    backoff_s: float = 0.2
    """Wait before the first restart; it doubles with each death that follows, up to `backoff_s_max`."""
    backoff_s_max: float = 30.0
    steady_s: float = 60.0
    """A child that lived this long is forgiven the deaths before it."""

    def __post_init__(self) -> None:
        for name in ("threads", "slots", "context_tokens", "prefill_tokens", "batch_tokens", "patience_beats"):
            if getattr(self, name) < 1:
                raise ValueError(f"engine setting {name} must be at least 1")
        if self.queue < 0:
            raise ValueError("engine setting queue must be 0 or more")
