"""What a start builds: the starters that are not there, and those that cannot serve as they are."""

from pathlib import Path

from appliance.up import serves
from models.store import Store
from tests.support.tiny_models import install, write_embed


def test_a_starter_that_is_damaged_or_old_is_built_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert not serves(store, "tiny-embed", "1")
    (package,) = install(tmp_path / "store", write_embed(tmp_path / "made"))
    assert serves(store, "tiny-embed", "1")
    assert not serves(store, "tiny-embed", "2"), "of an older release"
    (package.folder / "tokenizer.json").chmod(0o600)
    (package.folder / "tokenizer.json").write_text("{}")
    assert not serves(store, "tiny-embed", "1")
