from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from quantize.sources.checkpoint import SourceError
from quantize.sources.gguf_file import open_gguf
from tests.quantize.test_gguf import write_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_gguf(path, GGMLQuantizationType.Q8_0, token_scores=[0.5] * 258, add_space_prefix=True)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_1", "Q8_0"])
def test_fields_and_tensors_are_those_that_the_gguf_package_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, GGMLQuantizationType[kind], token_scores=[0.5] * 258, add_space_prefix=True)
    ours, theirs = open_gguf(path), GGUFReader(path)
    own = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.fields == own
    assert ours.fields["tokenizer.ggml.add_space_prefix"] is True
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        stored = ours.tensors[tensor.name]
        assert stored.kind == tensor.tensor_type
        assert stored.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert stored.raw.tobytes() == np.asarray(tensor.data).tobytes()


@given(place=st.integers(0, 9000), value=st.integers(0, 255))
def test_a_file_with_a_wrong_byte_is_read_or_refused(whole: bytes, place: int, value: int) -> None:
    assert len(whole) > 9000
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            open_gguf(path)
        except SourceError as error:
            assert path.name in str(error)
