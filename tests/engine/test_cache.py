import numpy as np
import pytest

from appliance.engine.cache import Cache, Tile


def test_a_forgotten_slot_is_empty_and_its_neighbours_are_as_they_were() -> None:
    cache = Cache(layers=2, slots=3, kv_heads=2, capacity=64, tile=Tile(1, 64))  # Two pages a slot.
    for buffer in cache.buffers.values():
        buffer[:] = 1
    cache.forget(1)
    for buffer in cache.buffers.values():
        assert (buffer[1] == 0).all()
        assert (buffer[[0, 2]] == 1).all()


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_forgetting_never_touches_a_neighbour_on_the_same_page(slot: int) -> None:
    cache = Cache(layers=1, slots=3, kv_heads=1, capacity=100, tile=Tile(1, 64))  # Slots share pages.
    for buffer in cache.buffers.values():
        buffer[:] = 1
    cache.forget(slot)
    others = [other for other in range(3) if other != slot]
    for buffer in cache.buffers.values():
        assert (buffer[others] == 1).all()


def test_a_cache_has_a_buffer_for_keys_and_values_of_each_layer() -> None:
    cache = Cache(layers=2, slots=3, kv_heads=4, capacity=50, tile=Tile(16, 7))
    assert sorted(cache.buffers) == ["0.key", "0.value", "1.key", "1.value"]
    assert {buffer.shape for buffer in cache.buffers.values()} == {(3, 4, 4, 7)}


def test_the_first_tokens_can_be_copied_and_kept() -> None:
    cache = Cache(layers=1, slots=3, kv_heads=2, capacity=256, tile=Tile(16, 1024))  # 4 tiles a page
    for buffer in cache.buffers.values():
        buffer[:] = np.arange(3, dtype=np.uint8)[:, None, None, None] + 1
    cache.copy(0, 1, tokens=17)
    cache.forget(2, keep=65)
    for buffer in cache.buffers.values():
        assert (buffer[1, :, :2] == 1).all()
        assert (buffer[1, :, 2:] == 2).all()
        assert (buffer[2, :, :5] == 3).all()
        assert (buffer[2, :, 8:] == 0).all()  # The pages that hold nothing of the first 65 tokens.


def test_a_token_s_share_of_memory_is_told() -> None:
    assert Cache(layers=30, slots=1, kv_heads=3, capacity=16, tile=Tile(16, 1088)).bytes_per_token == 30 * 2 * 3 * 68
