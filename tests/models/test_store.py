import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from models.errors import (
    InvalidLayout,
    NothingToRollBack,
    NotInstalled,
    PackageError,
    StoreError,
    TamperedPackage,
    UnsafeModel,
)
from models.layout import pack
from models.manifest import Manifest, read_manifest
from models.store import Installed, Store
from tests.support.tiny_package import external_tensor, tiny_graph, write_tiny_package


def accept(folder: Path, manifest: Manifest) -> None:
    """An inspection that takes everything, for tests of what else the store does."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", inspect=accept)


def packed(tmp_path: Path, version: str, name: str = "tiny") -> Path:
    out = tmp_path / f"{name}-{version}"
    if not out.exists():
        pack(write_tiny_package(tmp_path / f"files-{name}-{version}", name, version), out)
    return out


def serving(store: Store) -> dict[str, str]:
    return {package.name: package.manifest.version for package in store.active()}


def test_an_empty_store_serves_nothing(store: Store, tmp_path: Path) -> None:
    assert (store.installed(), store.active(), store.names()) == (([], []), [], [])
    assert not (tmp_path / "store").exists()
    with pytest.raises(NotInstalled, match="tiny"):
        store.current("tiny")


def test_installing_makes_files_available_but_does_not_make_them_serve(
    store: Store, layout: Path, folder: Path
) -> None:
    package = store.install(layout)
    assert (package.folder / "card.md").read_bytes() == (folder / "card.md").read_bytes()
    assert pack(folder, layout) == f"sha256:{package.digest.hex()}"
    assert store.installed() == ([package], [])
    assert store.active() == []


def test_a_tar_installs_as_the_same_package(store: Store, layout: Path, folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "layout.tar")
    assert store.install(tmp_path / "layout.tar") == store.install(layout)


def test_activate_switches_and_roll_back_returns(store: Store, tmp_path: Path) -> None:
    first, second = (store.install(packed(tmp_path, version)) for version in ("1", "2"))
    store.activate("tiny", first.digest)
    with pytest.raises(NothingToRollBack):
        store.roll_back("tiny")
    store.activate("tiny", second.digest)
    store.activate("tiny", second.digest)
    assert serving(store) == {"tiny": "2"}
    assert store.roll_back("tiny") == first
    assert serving(store) == {"tiny": "1"}
    assert store.roll_back("tiny") == second
    assert serving(store) == {"tiny": "2"}


def test_restore_undoes_an_activation_to_the_letter(store: Store, tmp_path: Path) -> None:
    first, second, third = (store.install(packed(tmp_path, version)) for version in ("1", "2", "3"))
    pointer = tmp_path / "store" / "active" / "tiny.json"
    undo = store.activate("tiny", first.digest)
    store.restore("tiny", undo)
    assert store.names() == []
    store.restore("tiny", undo)
    store.activate("tiny", first.digest)
    store.activate("tiny", second.digest)
    stood = pointer.read_bytes()
    store.restore("tiny", store.activate("tiny", third.digest))
    assert pointer.read_bytes() == stood
    store.restore("tiny", store.activate("tiny", second.digest))
    assert pointer.read_bytes() == stood


def test_restore_leaves_what_somebody_else_chose_since(store: Store, tmp_path: Path) -> None:
    first, second, third = (store.install(packed(tmp_path, version)) for version in ("1", "2", "3"))
    store.activate("tiny", first.digest)
    undo = store.activate("tiny", second.digest)
    store.activate("tiny", third.digest)
    store.restore("tiny", undo)
    assert serving(store) == {"tiny": "3"}
    store.deactivate("tiny")
    store.restore("tiny", undo)
    assert store.names() == []


def test_restore_points_at_nothing_that_was_removed_since(store: Store, tmp_path: Path) -> None:
    first, second, third = (store.install(packed(tmp_path, version)) for version in ("1", "2", "3"))
    store.activate("tiny", first.digest)
    store.activate("tiny", second.digest)
    undo = store.activate("tiny", third.digest)
    store.remove(first.digest)
    store.restore("tiny", undo)
    assert serving(store) == {"tiny": "2"}
    with pytest.raises(NothingToRollBack):
        store.roll_back("tiny")
    undo = store.activate("tiny", third.digest)
    store.remove(second.digest)
    store.restore("tiny", undo)
    assert store.names() == []


def test_names_serve_side_by_side(store: Store, tmp_path: Path) -> None:
    for name in ("b.model", "a-model"):
        store.activate(name, store.install(packed(tmp_path, "1", name)).digest)
    assert store.names() == ["a-model", "b.model"]
    store.deactivate("b.model")
    assert store.names() == ["a-model"]
    with pytest.raises(NotInstalled):
        store.deactivate("b.model")


def test_a_package_serves_only_under_its_own_name(store: Store, layout: Path) -> None:
    package = store.install(layout)
    for name in ("other", "../tiny"):
        with pytest.raises(StoreError, match="package of 'tiny'"):
            store.activate(name, package.digest)
    with pytest.raises(NotInstalled):
        store.activate("tiny", bytes(32))


def test_only_what_does_not_serve_can_be_removed(store: Store, tmp_path: Path) -> None:
    first, second = (store.install(packed(tmp_path, version)) for version in ("1", "2"))
    store.activate("tiny", first.digest)
    store.activate("tiny", second.digest)
    with pytest.raises(StoreError, match="serves as 'tiny'"):
        store.remove(second.digest)
    store.remove(first.digest)
    assert store.installed() == ([second], [])
    with pytest.raises(NothingToRollBack):
        store.roll_back("tiny")
    with pytest.raises(NotInstalled):
        store.remove(first.digest)


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_file_of_another_size_is_noticed_at_once(store: Store, layout: Path) -> None:
    package = store.install(layout)
    store.activate("tiny", package.digest)
    path = package.folder / "model.int8.bin"
    rewrite(path, path.read_bytes() + b"x")
    for look in (store.active, lambda: store.verify(package.digest)):
        with pytest.raises(TamperedPackage, match=r"model\.int8\.bin"):
            look()


def test_a_damaged_package_stands_beside_the_others_and_can_be_removed(store: Store, tmp_path: Path) -> None:
    first, second, third = (store.install(packed(tmp_path, version)) for version in ("1", "2", "3"))
    rewrite(first.folder / "model.int8.bin", b"")
    rewrite(second.folder.parent / "image.json", b"{}")
    whole, damaged = store.installed()
    assert whole == [third]
    assert {one.digest: type(one.error) for one in damaged} == {
        first.digest: TamperedPackage,
        second.digest: TamperedPackage,
    }
    for one in damaged:
        store.remove(one.digest)
    assert store.installed() == ([third], [])


def test_changed_bytes_are_found_by_verify(store: Store, layout: Path) -> None:
    package = store.install(layout)
    path = package.folder / "model.int8.bin"
    rewrite(path, bytes(path.stat().st_size))
    assert store.open(package.digest) == package
    with pytest.raises(TamperedPackage, match=r"model\.int8\.bin.*digest"):
        store.verify(package.digest)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def hard_link(path: Path) -> None:
    path.with_name("second-name").hardlink_to(path)


@pytest.mark.parametrize("tamper", [Path.unlink, link, hard_link])
def test_links_in_a_package_are_noticed_at_once(store: Store, layout: Path, tamper: Callable[[Path], None]) -> None:
    package = store.install(layout)
    tamper(package.folder / "model.int8.bin")
    with pytest.raises(TamperedPackage, match=r"model\.int8\.bin"):
        store.open(package.digest)


def test_a_changed_manifest_is_noticed_at_once(store: Store, layout: Path) -> None:
    package = store.install(layout)
    path = package.folder.parent / "image.json"
    rewrite(path, path.read_bytes().replace(b"card.md", b"carD.md"))
    with pytest.raises(TamperedPackage, match="manifest"):
        store.open(package.digest)


def test_an_added_file_is_found_by_verify(store: Store, layout: Path) -> None:
    package = store.install(layout)
    (package.folder / "evil.py").write_text("")
    with pytest.raises(TamperedPackage, match=r"evil\.py"):
        store.verify(package.digest)


def test_installing_again_mends_a_damaged_package(store: Store, layout: Path) -> None:
    package = store.install(layout)
    store.activate("tiny", package.digest)
    rewrite(package.folder / "model.int8.bin", b"")
    assert store.install(layout) == package
    assert store.verify(package.digest) == package
    assert store.active() == [package]


def test_a_refused_package_leaves_nothing(store: Store, layout: Path, tmp_path: Path) -> None:
    def refuse(folder: Path, manifest: Manifest) -> None:
        raise UnsafeModel("no")

    with pytest.raises(UnsafeModel):
        Store(tmp_path / "store", inspect=refuse).install(layout)
    assert store.installed() == ([], [])
    assert list((tmp_path / "store" / "incoming").iterdir()) == []


def test_graphs_are_inspected_unless_told_otherwise(tmp_path: Path, folder: Path) -> None:
    model = tiny_graph(initializers=[external_tensor("w", (2,), "/etc/passwd")])
    (folder / "model.int8.onnx").write_bytes(model.SerializeToString())
    pack(folder, tmp_path / "layout")
    with pytest.raises(UnsafeModel, match="/etc/passwd"):
        Store(tmp_path / "store").install(tmp_path / "layout")


def test_a_full_disk_is_refused_before_anything_is_written(
    store: Store, layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.store.SPARE_BYTES", 1 << 60)
    with pytest.raises(StoreError, match="bytes free where"):
        store.install(layout)
    assert store.installed() == ([], [])


def test_a_damaged_pointer_says_what_to_do(store: Store, layout: Path, tmp_path: Path) -> None:
    store.activate("tiny", store.install(layout).digest)
    (tmp_path / "store" / "active" / "tiny.json").write_text('{"current": "../../x", "previous": null}')
    with pytest.raises(StoreError, match=r"tiny\.json: damaged; delete it and activate"):
        store.active()


def test_a_layout_is_read_once(store: Store, layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked is what is kept, though somebody changes the layout meanwhile."""
    other = packed(layout.parent, "2")

    def exchange(_path: Path) -> SimpleNamespace:
        for path in other.rglob("*"):
            if path.is_file():
                shutil.copyfile(path, layout / path.relative_to(other))
        return SimpleNamespace(free=1 << 60)

    shutil.copytree(other / "blobs", layout / "blobs", dirs_exist_ok=True)
    digest = pack(layout.parent / "files", layout.parent / "same")
    monkeypatch.setattr("models.store.shutil.disk_usage", exchange)
    package = store.install(layout)
    assert f"sha256:{package.digest.hex()}" == digest
    assert read_manifest(package.folder) == package.manifest
    assert store.verify(package.digest) == package


def test_a_broken_layout_does_not_reach_the_store(store: Store, layout: Path) -> None:
    (layout / "index.json").unlink()
    with pytest.raises(InvalidLayout):
        store.install(layout)


# A process killed at every single step that touches the file system.

STEPS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.link"}


def run_killed_at(step: int, root: Path, action: Callable[[], object]) -> bool:
    """Run an action in a forked process that dies (as by SIGKILL) just before its n-th step under `root`.

    Returns whether the action came to its end before that step.
    """
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in STEPS and any(isinstance(a, str | os.PathLike) and str(root) in str(a) for a in arguments):
                left -= 1
                if left == 0:
                    os._exit(137)

        sys.addaudithook(count)
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 137), "the action itself failed"
    return code == 0


def install_second(store: Store, layout: Path, first: Installed, second: bytes) -> None:
    store.install(layout)


def activate_second(store: Store, layout: Path, first: Installed, second: bytes) -> None:
    store.activate("tiny", second)


def roll_back_first(store: Store, layout: Path, first: Installed, second: bytes) -> None:
    store.roll_back("tiny")


def remove_second(store: Store, layout: Path, first: Installed, second: bytes) -> None:
    store.remove(second)


@pytest.mark.parametrize(
    ("prepare", "action", "serves"),
    [
        ([], install_second, {"1"}),
        ([install_second], activate_second, {"1", "2"}),
        ([install_second, activate_second], roll_back_first, {"1", "2"}),
        ([install_second], remove_second, {"1"}),
    ],
)
def test_a_kill_at_any_step_leaves_a_serving_store(
    tmp_path: Path,
    prepare: list[Callable[[Store, Path, Installed, bytes], None]],
    action: Callable[[Store, Path, Installed, bytes], None],
    serves: set[str],
) -> None:
    layout = packed(tmp_path, "2")
    second = Store(tmp_path / "probe", inspect=accept).install(layout).digest
    begin = Store(tmp_path / "begin", inspect=accept)
    first = begin.install(packed(tmp_path, "1"))
    begin.activate("tiny", first.digest)
    for before in prepare:
        before(begin, layout, first, second)
    finished = False
    step = 0
    while not finished:
        step += 1
        assert step < 200, "the action never finished"
        root = tmp_path / f"store-{step}"
        shutil.copytree(tmp_path / "begin", root)
        store = Store(root, inspect=accept)
        finished = run_killed_at(step, root, partial(action, store, layout, first, second))

        (package,) = store.active()
        assert package.manifest.version in serves
        assert store.verify(package.digest) == package
        whole, damaged = store.installed()
        assert damaged == []
        for other in whole:  # whatever is there is there entirely
            store.verify(other.digest)
        try:
            action(store, layout, first, second)  # doing it again works, or says that it is done
        except PackageError as error:
            assert isinstance(error, NotInstalled | NothingToRollBack), error
        assert list((root / "incoming").iterdir()) == []
    assert step > 3, "the kills must have hit something"
