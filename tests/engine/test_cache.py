import pytest

from appliance.engine.cache import Cache, Slots, Tile


def test_the_lowest_free_slot_is_taken_first() -> None:
    slots = Slots(3)
    assert [slots.allocate() for _ in range(3)] == [0, 1, 2]
    slots.release(1)
    slots.release(0)
    assert [slots.allocate(), slots.allocate()] == [0, 1]


def test_there_are_no_more_slots_than_there_are() -> None:
    slots = Slots(1)
    slots.allocate()
    assert slots.free == 0
    with pytest.raises(IndexError):
        slots.allocate()


@pytest.mark.parametrize("slot", [0, 1, -1])
def test_a_slot_that_is_not_taken_cannot_be_released(slot: int) -> None:
    with pytest.raises(AssertionError):
        Slots(1).release(slot)


def test_who_cares_hears_of_a_slot_that_is_released() -> None:
    released: list[int] = []
    slots = Slots(2, released.append)
    slots.release(slots.allocate())
    assert released == [0]


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
