import torch
from hypothesis import given
from hypothesis import strategies as st

from ftd.worker.infer.cache import SHARED_TOKENS, STEP_TOKENS, KeyValues, Layout, Shelf, common

LAYOUT = Layout(layers=2, heads=2, width=4, dtype=torch.float32, device=torch.device("cpu"))
ids = st.lists(st.integers(0, 1), max_size=12)


def known(tokens: list[int]) -> KeyValues:
    """A sequence whose keys and values are told by its tokens and their places."""
    it = KeyValues(LAYOUT)
    it.reserve(len(tokens))
    for at, token in enumerate(tokens):
        it.buffer[:, :, :, at] = mark(at, token)
    it.tokens = list(tokens)
    return it


def mark(at: int, token: int) -> float:
    return at * 1000.0 + token


def assert_sound(it: KeyValues) -> None:
    wanted = torch.tensor([mark(at, token) for at, token in enumerate(it.tokens)])
    seen = it.buffer[:, :, :, : len(it.tokens)]
    assert torch.equal(seen, wanted[:, None].expand_as(seen))


def test_a_sequence_that_grows_keeps_what_it_knows() -> None:
    it = known(list(range(5)))
    before = it.buffer
    it.reserve(STEP_TOKENS)
    assert it.buffer is before, "there was room"
    it.reserve(STEP_TOKENS + 1)
    assert it.buffer.shape[3] > 5 + STEP_TOKENS
    assert_sound(it)


def test_growing_token_by_token_copies_seldom() -> None:
    it = known([1])
    buffers = set()
    for at in range(1, 2000):
        it.reserve(1)
        it.buffer[:, :, :, at] = mark(at, 1)
        it.tokens.append(1)
        buffers.add(it.buffer.data_ptr())
    assert_sound(it)
    assert len(buffers) < 20


def test_what_is_kept_takes_no_room_for_more() -> None:
    it = known([1] * 20)
    it.reserve(1000)
    it.shrink()
    assert it.buffer.shape[3] == 20
    assert_sound(it)


def test_a_copy_lives_by_itself() -> None:
    it = known([1, 2, 3])
    other = it.copy(2, 10)
    assert other.tokens == [1, 2]
    it.buffer.zero_()
    assert_sound(other)
    assert other.buffer.shape[3] >= 12


@given(ids, ids)
def test_common_beginnings(left: list[int], right: list[int]) -> None:
    length = common(left, right)
    assert left[:length] == right[:length]
    assert left[: length + 1] != right[: length + 1] or length == min(len(left), len(right))


def test_a_kept_sequence_is_handed_over_to_what_goes_on_from_it() -> None:
    shelf = Shelf(100)
    it = known(list(range(20)))
    shelf.put(None, it)
    taken = shelf.take(None, list(range(30)), [])
    assert taken is it
    assert shelf.tokens == 0


def test_a_part_of_a_kept_sequence_is_copied() -> None:
    shelf = Shelf(100)
    it = known(list(range(30)))
    shelf.put(None, it)
    taken = shelf.take(None, [*range(18), 99, 98], [])
    assert taken is not None
    assert taken is not it
    assert taken.tokens == list(range(18))
    assert_sound(taken)
    assert shelf.tokens == 30


def test_one_token_is_always_left_to_compute() -> None:
    shelf = Shelf(100)
    shelf.put(None, known(list(range(30))))
    taken = shelf.take(None, list(range(30)), [])
    assert taken is not None
    assert taken.tokens == list(range(29))


def test_what_another_adapter_computed_is_of_no_use() -> None:
    shelf = Shelf(100)
    shelf.put("a", known(list(range(30))))
    assert shelf.take(None, list(range(30)), []) is None
    assert shelf.take("b", list(range(30)), [("c", known(list(range(30))))]) is None


def test_a_few_common_tokens_are_not_worth_it() -> None:
    shelf = Shelf(100)
    shelf.put(None, known(list(range(30))))
    assert shelf.take(None, [*range(SHARED_TOKENS - 1), 99, 98], []) is None
    assert shelf.take(None, [*range(SHARED_TOKENS), 99, 98], []) is not None


def test_a_running_row_can_be_copied_from() -> None:
    it = known(list(range(30)))
    taken = Shelf(0).take("a", list(range(40)), [("a", it)])
    assert taken is not None
    assert taken is not it
    assert taken.tokens == list(range(30))


def test_the_one_used_last_stays() -> None:
    shelf = Shelf(60)
    for start in (100, 200, 300):
        shelf.put(None, known(list(range(start, start + 20))))
    assert shelf.take(None, [*range(100, 118), 0, 0], []) is not None  # copied, used
    shelf.put(None, known(list(range(400, 420))))
    assert shelf.tokens == 60
    assert shelf.take(None, list(range(200, 225)), []) is None
    assert shelf.take(None, list(range(100, 125)), []) is not None


def test_one_conversation_is_kept_once() -> None:
    shelf = Shelf(1000)
    shelf.put(None, known(list(range(20))))
    shelf.put(None, known(list(range(40))))
    shelf.put(None, known(list(range(30))))
    assert shelf.tokens == 40


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(1, 50))))
def test_a_shelf_keeps_its_limit(puts: list[tuple[str, int, int]]) -> None:
    shelf = Shelf(64)
    for adapter, start, count in puts:
        shelf.put(adapter, known(list(range(start, start + count))))
        assert shelf.tokens <= 64
        taken = shelf.take(adapter, list(range(start, start + count + 1)), [])
        assert (taken is not None) == (count >= SHARED_TOKENS)
        if taken is not None:
            assert_sound(taken)
            shelf.put(adapter, taken)
    assert shelf.clear() == (any(count >= SHARED_TOKENS for _, _, count in puts))
    assert shelf.tokens == 0
