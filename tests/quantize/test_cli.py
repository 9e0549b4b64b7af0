import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.layout import open_source, read_package
from models.store import Store
from quantize.cli import app
from tests.quantize.tiny import DECODER_RECIPE, ENCODER_RECIPE, tiny_bert, tiny_llama, write_recipe


def test_a_package_is_built_packed_and_installed(tmp_path: Path) -> None:
    path = write_recipe(ENCODER_RECIPE, tiny_bert(), tmp_path)
    places = ["--out", str(tmp_path / "layout"), "--install-into", str(tmp_path / "store")]
    result = CliRunner().invoke(app, [str(path), *places, "--cache", str(tmp_path / "cache"), "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    with open_source(tmp_path / "layout") as source:
        assert answer["digest"] == f"sha256:{read_package(source).digest.hex()}"
    (package,) = Store(tmp_path / "store").active()
    assert (package.name, f"sha256:{package.digest.hex()}") == ("tiny-encoder", answer["digest"])
    assert answer["card"]["lanes"]["int8"]["cosine_min"] >= 0.95
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_table_shows_every_lane(tmp_path: Path) -> None:
    path = write_recipe(DECODER_RECIPE, tiny_llama(), tmp_path)
    args = [str(path), "--out", str(tmp_path / "package.tar"), "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    for word in ("fp32", "q8", "int8", "q4", "agreement", "package.tar"):
        assert word in result.stdout.replace("\n", "")


def test_a_lane_below_its_threshold_is_shown_in_a_table(tmp_path: Path) -> None:
    text = ENCODER_RECIPE.replace("cosine_min = 0.95", "cosine_min = 1.0")
    path = write_recipe(text, tiny_bert(), tmp_path)
    result = CliRunner().invoke(app, [str(path), "--out", str(tmp_path / "o"), "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 1
    assert "cosine_min" in result.stderr
    assert "failed" in result.stderr
    assert not (tmp_path / "o").exists()


def test_what_is_wrong_with_a_recipe_is_said_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["gpt-9", "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 1
    assert "no recipe named 'gpt-9'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_place_that_is_taken_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(ENCODER_RECIPE, tiny_bert(), tmp_path)
    words = [str(path), "--out", str(tmp_path / "layout"), "--cache", str(tmp_path / "cache")]
    assert CliRunner().invoke(app, words).exit_code == 0
    monkeypatch.setattr("quantize.command.build", None)
    (tmp_path / "papers").mkdir()
    path.write_text(ENCODER_RECIPE.replace("Nobody", "Somebody"), encoding="utf-8")  # of the same name and version
    for place in ("layout", "papers"):
        result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / place)])
        assert result.exit_code == 1
        assert "is there already" in " ".join(result.stderr.split())
