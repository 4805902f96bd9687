import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from ftd.worker.infer import batch as module_under_test
from ftd.worker.infer.batch import OWN_FAULT, SHORTAGE
from ftd.worker.infer.cache import KeyValues
from ftd.worker.infer.model import Network
from tests.worker.infer.conftest import NewAdapter, network_of, tuned
from tests.worker.infer.rows import Told, answered, assert_equal, finish, greedy, new_batch

QUESTIONS = (
    "What is the capital of France?",
    "Tell me about the sea.",
    "Write two lines about bread.",
    "How do I sort a list in Python?",
    "Who wrote Hamlet?",
    "Name three colours.",
    "What is 17 plus 25?",
    "Give me a name for a cat.",
)


def ids_of(start: int, count: int) -> list[int]:
    return [(7 * at + start) % 250 + 3 for at in range(count)]


def test_rows_side_by_side_answer_as_alone(plain: LlamaForCausalLM, network: Network) -> None:
    prompts = [ids_of(30 * at, 1 + 9 * at) for at in range(8)]
    ours = answered(new_batch(network), *(Told(ids, 20) for ids in prompts))
    assert_equal(ours, [greedy(plain, ids, 20) for ids in prompts])


def test_rows_of_three_adapters_and_the_base(
    plain: LlamaForCausalLM, network: Network, new_adapter: NewAdapter
) -> None:
    names = [None, *(new_adapter(name, seed) for seed, name in enumerate("abc"))]
    models = [plain if name is None else tuned(plain, name) for name in names]
    prompts = [ids_of(20 * at, 5 + at) for at in range(8)]
    batch = new_batch(network)
    rows = [Told(ids, 20, names[at % 4]) for at, ids in enumerate(prompts)]
    ours = answered(batch, *rows)
    theirs = [greedy(models[at % 4], ids, 20) for at, ids in enumerate(prompts)]
    assert_equal(ours, theirs)
    assert batch.adapters == 3
    assert len({tuple(tokens) for tokens in ours}) == 8


def test_the_starter_model_with_adapters_answers_token_for_token(
    starter: Any, starter_adapters: list[str], starter_tokenizer: Any
) -> None:
    """Eight at once over three adapters and the base, each as transformers and PEFT alone."""
    names = [None, *starter_adapters]
    models = [starter if name is None else tuned(starter, name) for name in names]
    talks = [f"<|im_start|>user\n{it}<|im_end|>\n<|im_start|>assistant\n" for it in QUESTIONS]
    prompts = [starter_tokenizer(talk).input_ids for talk in talks]
    network = network_of(copy.deepcopy(starter))
    rows = [Told(ids, 16, names[at % 4]) for at, ids in enumerate(prompts)]
    ours = answered(new_batch(network), *rows)
    assert_equal(ours, [greedy(models[at % 4], ids, 16) for at, ids in enumerate(prompts)])
    assert "Paris" in starter_tokenizer.decode(ours[0])


def test_a_prompt_longer_than_a_part(
    plain: LlamaForCausalLM, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module_under_test.ALONE, "cpu", 16)
    monkeypatch.setitem(module_under_test.BESIDE, "cpu", 8)
    first, long = Told(ids_of(0, 5), 40), Told(ids_of(9, 100), 10)
    batch = new_batch(network)
    batch.add([first])
    batch.turn()
    batch.add([long])
    heard = []
    while long.prompt is None:
        batch.turn()
        heard.append(len(first.tokens))
    assert heard == list(range(2, 15)), "the first row did not stall: 13 parts of 8"
    finish(batch)
    assert_equal(
        [first.tokens, long.tokens], [greedy(plain, first.ids, 40), greedy(plain, long.ids, 10)]
    )


def test_a_short_prompt_does_not_wait_for_a_long_one(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module_under_test.ALONE, "cpu", 16)
    long, short = Told(ids_of(0, 300), 5), Told(ids_of(9, 5), 5)
    batch = new_batch(network)
    batch.add([long])
    batch.add([short])
    batch.turn()
    assert short.tokens
    assert not long.tokens


def test_short_prompts_are_computed_whole_and_the_oldest_is_not_forgotten(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module_under_test.ALONE, "cpu", 100)
    monkeypatch.setitem(module_under_test.BESIDE, "cpu", 100)
    long = Told(ids_of(0, 130), 40)
    short = [Told(ids_of(9 * at, 20), 40) for at in range(6)]
    batch = new_batch(network)
    for row in (long, *short):
        batch.add([row])
    batch.turn()
    assert [len(row.tokens) for row in (long, *short)] == [0, 1, 1, 0, 0, 0, 0]
    batch.turn()
    assert [len(row.tokens) for row in (long, *short)] == [0, 2, 2, 1, 1, 1, 0]
    batch.turn()
    assert long.tokens


def test_rows_join_and_leave_in_between(plain: LlamaForCausalLM, network: Network) -> None:
    rows = [Told(ids_of(30 * at, 4 + at), 3 + 4 * at) for at in range(6)]
    batch = new_batch(network, rows=3)
    most = 0
    for row in rows:
        batch.add([row])
        batch.turn()
        batch.turn()
        most = max(most, batch.running)
    finish(batch)
    assert most == 3
    assert_equal([row.tokens for row in rows], [greedy(plain, r.ids, r.max_tokens) for r in rows])


def test_choices_share_a_prompt_that_is_computed_once(
    plain: LlamaForCausalLM, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = watch(network, monkeypatch)
    rows = [Told(ids_of(0, 50), 6) for _ in range(5)]
    batch = new_batch(network, rows=2)
    batch.add(rows)
    finish(batch)
    assert_equal([row.tokens for row in rows], [greedy(plain, rows[0].ids, 6)] * 5)
    assert sum(computed) == 50 + 5 * 5
    assert [row.prompt for row in rows] == [(50, 0)] * 5


def watch(network: Network, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass computes."""
    computed: list[int] = []
    forward = network.module.forward

    def counting(input_ids: Tensor, **more: Any) -> Any:
        computed.append(input_ids.numel())
        return forward(input_ids=input_ids, **more)

    monkeypatch.setattr(network.module, "forward", counting)
    return computed


def test_what_is_known_of_a_prompt_is_not_computed_again(
    plain: LlamaForCausalLM, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = new_batch(network, cache_tokens=1000)
    (answer,) = answered(batch, Told(ids_of(0, 40), 10))
    assert batch.cached_tokens == 49, "the last token of an answer was never computed"
    computed = watch(network, monkeypatch)
    longer = Told([*ids_of(0, 40), *answer, *ids_of(3, 20)], 10)
    other = Told([*ids_of(0, 30), *ids_of(77, 10)], 10)
    (ours,) = answered(batch, longer)
    assert longer.prompt == (70, 49)
    assert computed[0] == 21
    (theirs,) = answered(batch, other)
    assert other.prompt == (40, 30)
    assert_equal([ours, theirs], [greedy(plain, longer.ids, 10), greedy(plain, other.ids, 10)])


def test_a_known_prompt_of_another_adapter_is_computed_again(
    plain: LlamaForCausalLM, network: Network, new_adapter: NewAdapter
) -> None:
    adapter = new_adapter("a")
    batch = new_batch(network, cache_tokens=1000)
    rows = [Told(ids_of(0, 40), 10, name) for name in (None, adapter, None, adapter)]
    for row in rows:
        answered(batch, row)
    assert [row.prompt for row in rows] == [(40, 0), (40, 0), (40, 39), (40, 39)]
    model = tuned(plain, adapter)
    theirs = [greedy(it, ids_of(0, 40), 10) for it in (plain, model)]
    assert_equal([row.tokens for row in rows], theirs * 2)


def test_a_known_prompt_of_another_owner_is_computed_again(
    plain: LlamaForCausalLM, network: Network
) -> None:
    """How much was known would tell what others have asked."""
    batch = new_batch(network, cache_tokens=1000)
    ours, theirs, again = (
        Told(ids_of(0, 40), 10, owner=owner) for owner in ("ours", "theirs", "ours")
    )
    batch.add([ours])
    batch.turn()
    batch.add([theirs])  # beside one that runs
    finish(batch)
    answered(batch, again)
    assert [row.prompt for row in (ours, theirs, again)] == [(40, 0), (40, 0), (40, 39)]
    assert_equal([row.tokens for row in (ours, theirs)], [greedy(plain, ours.ids, 10)] * 2)


def test_a_running_rows_prompt_is_shared(plain: LlamaForCausalLM, network: Network) -> None:
    first, second = Told(ids_of(0, 40), 30), Told(ids_of(0, 44), 10)
    batch = new_batch(network)
    batch.add([first])
    batch.turn()
    batch.add([second])
    finish(batch)
    assert second.prompt == (44, 40)
    assert_equal(
        [first.tokens, second.tokens], [greedy(plain, first.ids, 30), greedy(plain, second.ids, 10)]
    )


def test_a_cancelled_row_leaves_its_place(plain: LlamaForCausalLM, network: Network) -> None:
    gone, next_one, never = (Told(ids_of(at, 20), 100) for at in (0, 50, 90))
    batch = new_batch(network, rows=1, cache_tokens=1000)
    for row in (gone, never, next_one):
        batch.add([row])
    for _ in range(5):
        batch.turn()
    assert (batch.running, batch.waiting) == (1, 2)
    gone.cancelled = never.cancelled = True
    batch.turn()
    assert (batch.running, batch.waiting) == (1, 0)
    assert len(gone.tokens) == 5
    assert batch.cached_tokens == 24, "what it knew is kept"
    finish(batch)
    assert never.prompt is None
    assert len(gone.tokens) == 5
    assert_equal([next_one.tokens], [greedy(plain, next_one.ids, 100)])


def test_a_prompt_that_is_cancelled_half_way(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module_under_test.ALONE, "cpu", 20)
    row = Told(ids_of(0, 100), 5)
    batch = new_batch(network, cache_tokens=1000)
    batch.add([row])
    batch.turn()
    batch.turn()
    row.cancelled = True
    assert finish(batch) <= 1
    assert (row.prompt, row.tokens, row.fault) == (None, [], None)
    again = Told(ids_of(0, 100), 5)
    answered(batch, again)
    assert again.prompt == (100, 40)


def test_nothing_to_do(network: Network) -> None:
    assert not new_batch(network).turn()


def test_an_answer_may_end_early(network: Network) -> None:
    (whole,) = answered(new_batch(network), Told(ids_of(0, 9), 12))
    (cut,) = answered(new_batch(network), Told(ids_of(0, 9), 12, last=whole[3]))
    assert cut == whole[: whole.index(whole[3]) + 1]


def test_a_row_that_never_says_that_it_is_done_ends(network: Network) -> None:
    class Endless(Told):
        def take(self, token: int) -> bool:
            super().take(token)
            return False

    (tokens,) = answered(new_batch(network), Endless(ids_of(0, 9), 7))
    assert len(tokens) == 7


def test_a_row_chooses_for_itself(plain: LlamaForCausalLM, network: Network) -> None:
    class Least(Told):
        def choose(self, logits: Tensor) -> int:
            assert (logits.dtype, logits.shape) == (torch.float32, (259,))
            least = int(logits.argmin())
            logits.zero_()  # they are its own
            return least

    batch = new_batch(network)
    odd = [Least(ids_of(0, 9), 8, greedy=False) for _ in range(2)]
    batch.add(odd)
    (even,) = answered(batch, Told(ids_of(0, 9), 8))
    assert_equal([even], [greedy(plain, ids_of(0, 9), 8)])
    assert odd[0].tokens == odd[1].tokens
    assert odd[0].tokens[0] != even[0]


@pytest.mark.parametrize("where", ["began", "choose", "take"])
def test_a_row_that_raises_is_alone_in_it(
    plain: LlamaForCausalLM, network: Network, where: str
) -> None:
    def burst(*_: object) -> None:
        raise RuntimeError("a fault in a row")

    bad = Told(ids_of(0, 9), 8, greedy=False)
    setattr(bad, where, burst)
    good = Told(ids_of(5, 9), 8)
    batch = new_batch(network, rows=2)
    batch.add([bad])
    assert_equal([*answered(batch, good)], [greedy(plain, good.ids, 8)])
    assert bad.fault == OWN_FAULT


def test_an_adapter_that_does_not_load_fails_its_rows(
    plain: LlamaForCausalLM, network: Network
) -> None:
    bad = [Told(ids_of(0, 9), 8, adapter="no/such/directory") for _ in range(2)]
    good = Told(ids_of(5, 9), 8)
    batch = new_batch(network)
    batch.add(bad)
    assert_equal(answered(batch, good), [greedy(plain, good.ids, 8)])
    for row in bad:
        assert row.fault is not None
        assert row.fault.message.startswith("This adapter cannot be used: ")
        assert row.prompt is None


def test_rows_wait_for_a_place_among_the_adapters(
    plain: LlamaForCausalLM, network: Network, new_adapter: NewAdapter
) -> None:
    names = [new_adapter(name, seed) for seed, name in enumerate("abc")]
    rows = [Told(ids_of(9 * at, 9), 4 + at, names[at % 3]) for at in range(9)]
    batch = new_batch(network, adapters=2)
    for row in rows:
        batch.add([row])
    batch.turn()
    assert batch.adapters == 2
    assert batch.running == 2, "first come, first served: none overtakes the third"
    finish(batch)
    assert batch.adapters <= 2
    models = [tuned(plain, name) for name in names]
    theirs = [greedy(models[at % 3], row.ids, row.max_tokens) for at, row in enumerate(rows)]
    assert_equal([row.tokens for row in rows], theirs)


class Scarce:
    """A device whose memory holds a pass of so many tokens; the exception is torch's own."""

    def __init__(self, network: Network, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        self.tokens = tokens
        self.short = 0
        self._forward: Callable[..., Any] = network.module.model.layers[1].forward
        monkeypatch.setattr(network.module.model.layers[1], "forward", self)

    def __call__(self, hidden: Tensor, *more: Any, **named: Any) -> Any:
        if hidden.shape[1] > self.tokens:
            self.short += 1
            raise torch.OutOfMemoryError("CUDA out of memory (or so).")
        return self._forward(hidden, *more, **named)


def test_memory_that_runs_out_costs_what_is_kept_first(
    plain: LlamaForCausalLM, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = new_batch(network, cache_tokens=1000)
    answered(batch, Told(ids_of(0, 40), 10))
    scarce = Scarce(network, monkeypatch, tokens=30)
    row = Told(ids_of(99, 40), 10)
    batch.add([row])
    batch.turn()
    assert (scarce.short, batch.cached_tokens, row.fault) == (1, 0, None)
    scarce.tokens = 40  # as it is when that is given back
    finish(batch)
    assert_equal([row.tokens], [greedy(plain, row.ids, 10)])


def test_a_prompt_too_large_to_be_held_costs_itself_alone(
    plain: LlamaForCausalLM, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = KeyValues.reserve

    def scarce(known: KeyValues, tokens: int) -> None:
        if tokens > 100:
            raise torch.OutOfMemoryError
        reserve(known, tokens)

    monkeypatch.setattr(KeyValues, "reserve", scarce)
    batch = new_batch(network)
    rows = [Told(ids_of(9 * at, 4), 12) for at in range(2)]
    for row in rows:
        batch.add([row])
    batch.turn()
    large = Told(ids_of(5, 200), 12)
    batch.add([large])
    finish(batch)
    assert large.fault is SHORTAGE
    assert [row.fault for row in rows] == [None, None]
    assert_equal([row.tokens for row in rows], [greedy(plain, row.ids, 12) for row in rows])


def test_memory_that_runs_out_costs_the_rows_that_came_last(
    plain: LlamaForCausalLM, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarce = Scarce(network, monkeypatch, tokens=6)
    batch = new_batch(network)
    rows = [Told(ids_of(9 * at, 2), 12) for at in range(4)]
    for row in rows:
        batch.add([row])
        batch.turn()
    late = Told(ids_of(77, 30), 12)
    batch.add([late])
    batch.turn()
    assert late.fault == SHORTAGE
    scarce.tokens = 3
    finish(batch)
    assert [row.fault for row in rows] == [None, None, None, SHORTAGE]
    assert_equal([row.tokens for row in rows[:3]], [greedy(plain, row.ids, 12) for row in rows[:3]])
    assert 1 <= len(rows[3].tokens) < 12


def test_a_row_that_cannot_be_kept_hurts_nobody(
    plain: LlamaForCausalLM, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(_: KeyValues) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(KeyValues, "shrink", burst)
    rows = [Told(ids_of(9 * at, 20), 5 + at) for at in range(3)]
    batch = new_batch(network, cache_tokens=1000)
    ours = answered(batch, *rows)
    assert_equal(ours, [greedy(plain, row.ids, row.max_tokens) for row in rows])
    assert batch.cached_tokens == 0


def test_any_crowd_is_answered(
    plain: LlamaForCausalLM,
    network: Network,
    new_adapter: NewAdapter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests of all kinds that come and go at chance moments; those that stay are answered as
    alone."""
    monkeypatch.setitem(module_under_test.ALONE, "cpu", 24)
    monkeypatch.setitem(module_under_test.BESIDE, "cpu", 8)
    chance = torch.Generator().manual_seed(11)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=chance))

    names = [None, new_adapter("a", 1), new_adapter("b", 2, r=2)]
    models = [plain if name is None else tuned(plain, name) for name in names]
    batch = new_batch(network, rows=4, adapters=1, cache_tokens=150)
    requests = []
    for _ in range(30):
        ids, kind = ids_of(10 * draw(0, 3), draw(1, 60)), draw(0, 3)
        rows = [Told(ids, draw(1, 15), names[kind]) for _ in range(draw(1, 4))]
        requests.append((rows, kind))
        batch.add(rows)
        for _ in range(draw(0, 6)):
            batch.turn()
        if draw(0, 5) == 0:
            requests[draw(0, len(requests))][0][0].cancelled = True
    finish(batch)
    for rows, kind in requests:
        stayed = [row for row in rows if not row.cancelled]
        theirs = greedy(models[kind], rows[0].ids, 15)
        for row in stayed:
            count = row.max_tokens
            assert (row.fault, len(row.tokens)) == (None, count)
            assert_equal([row.tokens], [(theirs[0][:count], theirs[1][:count])])
    assert batch.cached_tokens <= 150
