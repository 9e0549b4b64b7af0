"""Read from files made for the test: what other machines show."""

from pathlib import Path

from appliance.engine.hardware import Accelerator, find_accelerators, find_nodes, read_processor


def machine(root: Path, cpuinfo: str, **devices: tuple[str, str, str]) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    for slot, numbers in devices.items():
        folder = root / "sys/bus/pci/devices" / f"0000:00:{slot[1:]}.0"
        folder.mkdir(parents=True)
        for name, number in zip(("class", "vendor", "device"), numbers, strict=True):
            (folder / name).write_text(f"{number}\n")
    return root


def test_a_laptop_with_graphics_and_an_npu(tmp_path: Path) -> None:
    cpuinfo = "processor: 0\nmodel name\t: Core Ultra\nflags\t\t: fpu avx2 avx_vnni f16c\n\nprocessor: 1\nflags: none\n"
    root = machine(
        tmp_path,
        cpuinfo,
        s00=("0x060000", "0x8086", "0x7d01"),
        s02=("0x030000", "0x8086", "0x7d55"),
        s0b=("0x120000", "0x8086", "0x7d1d"),
        s1f=("0x030200", "0xabcd", "0x0001"),
    )
    for node in ("dev/dri/renderD128", "dev/dri/card0", "dev/accel/accel0", "dev/nvidia0", "dev/nvidiactl"):
        (root / node).parent.mkdir(parents=True, exist_ok=True)
        (root / node).touch()
    processor = read_processor(root)
    assert (processor.model, processor.features) == ("Core Ultra", ("f16c", "avx2", "avx_vnni"))
    assert processor.cores >= 1
    assert find_accelerators(root) == (
        Accelerator("GPU", "Intel", "8086:7d55", "0000:00:02.0"),
        Accelerator("NPU", "Intel", "8086:7d1d", "0000:00:0b.0"),
        Accelerator("GPU", "vendor abcd", "abcd:0001", "0000:00:1f.0"),
    )
    assert find_nodes(root) == ("/dev/nvidia0", "/dev/dri/renderD128", "/dev/accel/accel0")


def test_an_arm_board_without_pci(tmp_path: Path) -> None:
    root = machine(tmp_path, "processor: 0\nFeatures: fp asimd asimddp i8mm\nCPU part: 0xd0b\n")
    processor = read_processor(root)
    assert (processor.model, processor.features) == ("CPU part 0xd0b", ("asimd", "asimddp", "i8mm"))
    assert find_accelerators(root) == ()
    assert find_nodes(root) == ()


def test_this_machine() -> None:
    assert read_processor().memory_bytes > 1 << 28
