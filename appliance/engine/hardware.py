"""What the machine has that could run a model, read from Linux's own files. Nothing is opened or started."""

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.engine.settings import physical_cores

ROOT = Path("/")
# What kernels for small models are written for, by the names that Linux gives them.
FEATURES = (
    *("f16c", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
VENDORS = {0x8086: "Intel", 0x10DE: "NVIDIA", 0x1002: "AMD", 0x1022: "AMD", 0x17CB: "Qualcomm", 0x1EA0: "Hailo"}
KINDS = {0x03: "GPU", 0x12: "NPU"}  # PCI base classes: display, processing accelerator.
NODES = ("dev/nvidia[0-9]*", "dev/kfd", "dev/dri/renderD*", "dev/accel/accel*")


@dataclass(frozen=True)
class Processor:
    """`cores`: physical ones that this process may use; `features`: those of `FEATURES` that it has."""

    model: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Accelerator:
    """A PCI device by its address, such as 0000:00:02.0, and its numbers, such as 8086:a7a0."""

    kind: str
    vendor: str
    ids: str
    address: str


def read_processor(root: Path = ROOT) -> Processor:
    """An ARM processor names no model there; its part number is shown instead."""
    said: dict[str, str] = {}
    for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            said.setdefault(name.strip(), value.strip())
    has = (said.get("flags") or said.get("Features") or "").split()
    model = said.get("model name") or said.get("Model") or f"CPU part {said.get('CPU part', 'unknown')}"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Processor(model, tuple(name for name in FEATURES if name in has), physical_cores(), memory)


def find_accelerators(root: Path = ROOT) -> tuple[Accelerator, ...]:
    """GPUs and NPUs on the PCI bus, whether or not a driver for them is there."""
    found = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind = KINDS.get(_number(folder / "class") >> 16)
        if kind:
            vendor, device = _number(folder / "vendor"), _number(folder / "device")
            ids = f"{vendor:04x}:{device:04x}"
            found.append(Accelerator(kind, VENDORS.get(vendor, f"vendor {vendor:04x}"), ids, folder.name))
    return tuple(found)


def find_nodes(root: Path = ROOT) -> tuple[str, ...]:
    """Device files through which drivers are reached, as absolute paths."""
    return tuple(f"/{path.relative_to(root)}" for pattern in NODES for path in sorted(root.glob(pattern)))


def _number(path: Path) -> int:
    """A number as sysfs writes it, 0x…; 0 if it is not there."""
    try:
        return int(path.read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return 0
