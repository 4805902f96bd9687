"""Whole answers of a tiny random model, whose tokens are bytes, through desk and batch."""

import json
import math
from typing import Any

import pytest
import torch

from ftd.core.chat import (
    Constraint,
    Conversation,
    Ended,
    Generate,
    Refused,
    Sampling,
    Text,
    TokenLogprob,
    Tokens,
)
from ftd.worker.infer.reply import SERVER_ERROR
from tests.tiny import byte_tokenizer
from tests.worker.infer.client import Told, generate, user
from tests.worker.infer.inside import Inside, tiny_network

END = 2  # <|im_end|>
READABLE = dict.fromkeys(range(3, 259), 20.0)  # everything but control tokens
TOOL = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {"color": {"enum": ["red", "blue"]}},
            "required": ["color"],
            "additionalProperties": False,
        },
    },
}
OTHER = {"type": "function", "function": {"name": "wait", "parameters": {"enum": [{}]}}}
COLORS = TOOL["function"]["parameters"]  # type: ignore[index]


def tooled(*special: str, sample: str = "") -> Any:
    """A byte tokenizer whose template knows tools, and perhaps writes calls as in the sample."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *special]})
    tokenizer.chat_template = (
        f"{{# {sample} #}}"
        "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"
        + tokenizer.chat_template
    )
    return tokenizer


@pytest.fixture(scope="module")
def network() -> Any:
    return tiny_network()


@pytest.fixture
def inside(network: Any) -> Inside:
    return Inside(network)


def ended(told: Told) -> int:
    assert isinstance(told.last, Ended), told.last
    return told.last.completion_tokens


def drawn(seed: int, **more: Any) -> Sampling:
    return Sampling(**({"seed": seed, "max_tokens": 20, "logit_bias": READABLE} | more))


def logprobs(told: Told, index: int = 0) -> list[TokenLogprob]:
    return [logprob for piece in told.pieces if piece.index == index for logprob in piece.logprobs]


def test_a_greedy_answer_is_what_the_model_generates(inside: Inside) -> None:
    (told,) = inside.ask(generate("hello", Sampling(temperature=0, max_tokens=30)))
    tokenizer = inside.network.tokenizer
    assert told.began is not None
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, return_dict=False
    )
    assert told.began.prompt_tokens == len(prompt)
    twin = tiny_network().module
    twin.set_attn_implementation("sdpa")
    out = twin.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0]
    assert told.text() == tokenizer.decode(out[len(prompt) :], skip_special_tokens=True)


def test_the_end_of_turn_ends_an_answer_and_is_no_text(inside: Inside) -> None:
    (told,) = inside.ask(generate("x", Sampling(logit_bias={END: 100})))
    assert told.text() == ""
    assert told.finished == {0: "stop"}
    assert ended(told) == 1


def test_max_tokens_and_the_context_end_an_answer_by_its_length(inside: Inside) -> None:
    never = {END: -100.0}
    short, long = inside.ask(
        generate("x", Sampling(max_tokens=3, logit_bias=never)),
        generate(Tokens(ids=(7,) * 500), Sampling(max_tokens=None, logit_bias=never)),
    )
    assert (short.finished, ended(short)) == ({0: "length"}, 3)
    assert (long.finished, ended(long)) == ({0: "length"}, 12)


def test_a_stop_sequence_cuts_text_and_logprobs(inside: Inside) -> None:
    sampling = drawn(5, top_logprobs=0)
    (whole,) = inside.ask(generate("x", sampling))
    text = whole.text()
    assert whole.finished == {0: "length"}
    at = 8
    (cut,) = inside.ask(
        generate("x", sampling.model_copy(update={"stop": (text[at : at + 2], "never said")}))
    )
    assert cut.finished == {0: "stop"}
    assert cut.text() == text[: text.find(text[at : at + 2])]
    assert b"".join(bytes(each.bytes) for each in logprobs(cut)).decode("utf-8", "replace") == (
        cut.text()
    )
    assert ended(cut) < ended(whole)


def test_a_seed_answers_alike_whatever_else_is_in_the_batch(inside: Inside) -> None:
    request = generate("tell", drawn(42, n=3, temperature=1.3, top_p=0.95))
    (alone,) = inside.ask(request)
    others = [generate(f"other {at}", drawn(at, n=2)) for at in range(3)]
    again = request.model_copy(update={"id": "again"})
    crowded = inside.ask(*others[:2], again, *others[2:])[2]
    texts = [alone.text(index) for index in range(3)]
    assert [crowded.text(index) for index in range(3)] == texts
    assert len(set(texts)) == 3
    single = inside.ask(generate("tell", drawn(44, temperature=1.3, top_p=0.95)))[0]
    assert single.text() == texts[2], "choice i draws by seed + i"


def test_without_a_seed_answers_differ(inside: Inside) -> None:
    request = generate("x", Sampling(max_tokens=20, logit_bias=READABLE))
    first, second = inside.ask(request, request.model_copy(update={"id": "other"}))
    assert first.text() != second.text()


def test_all_choices_of_a_request_are_counted_together(inside: Inside) -> None:
    (told,) = inside.ask(generate("x", drawn(1, n=5, max_tokens=4)))
    assert ended(told) == 20
    assert set(told.finished) == set(range(5))
    assert inside.done == [told.last.id]  # type: ignore[union-attr]


def test_logprobs_are_those_of_each_token(inside: Inside) -> None:
    request = generate("x", Sampling(temperature=0, max_tokens=20, top_logprobs=3))
    (told,) = inside.ask(request)
    found = logprobs(told)
    assert len(found) == ended(told) - (told.finished[0] == "stop")
    for each in found:
        assert len(each.top) == 3
        assert each.top[0].logprob == each.logprob, "greedy takes the best"
        assert [other.logprob for other in each.top] == sorted(
            (other.logprob for other in each.top), reverse=True
        )
        assert each.top[0].bytes == each.bytes
    twin = tiny_network().module
    twin.set_attn_implementation("sdpa")
    with torch.inference_mode():
        logits = twin(torch.tensor([inside.desk.read(request).ids])).logits[0, -1]
    expected = torch.log_softmax(logits, dim=-1).topk(3).values
    assert [each.logprob for each in found[0].top] == pytest.approx(expected.tolist(), abs=1e-4)
    said = b"".join(bytes(each.bytes) for each in found)
    assert said.decode("utf-8", "replace").startswith(told.text().rstrip("\ufffd"))


def test_logprobs_without_rivals_are_told_too(inside: Inside) -> None:
    (told,) = inside.ask(generate("x", drawn(3, top_logprobs=0)))
    assert [each.top for each in logprobs(told)] == [()] * 20
    assert all(-math.inf < each.logprob <= 0 for each in logprobs(told))


def test_an_echo_comes_first(inside: Inside) -> None:
    sampling = drawn(1, n=2, max_tokens=3)
    echoed, plain, tokens = inside.ask(
        generate(Text(text="say "), sampling, echo=True),
        generate(Text(text="say "), sampling),
        generate(Tokens(ids=tuple(inside.ids("say "))), sampling, echo=True),
    )
    for index in range(2):
        assert echoed.text(index) == "say " + plain.text(index)
        assert tokens.text(index) == echoed.text(index)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_constrained_answers_follow_their_schema(inside: Inside, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}, "size": {"type": "boolean"}},
        "required": ["color", "size"],
        "additionalProperties": False,
    }
    sampling = Sampling(temperature=temperature, seed=1, n=3, max_tokens=300)
    (told,) = inside.ask(generate("x", sampling, constraint=Constraint(json_schema=schema)))
    for index in range(3):
        answer = json.loads(told.text(index))
        assert answer["color"] in ("red", "blue")
        assert answer["size"] in (True, False)
        assert told.finished[index] == "stop"


def test_a_constrained_answer_may_end_by_its_length(inside: Inside) -> None:
    sampling = Sampling(temperature=0, max_tokens=3)
    constraint = Constraint(json_schema={"enum": ["as good as it gets"]})
    (told,) = inside.ask(generate("x", sampling, constraint=constraint))
    assert told.text() == '"as'
    assert told.finished == {0: "length"}


FORMS = {
    "hermes": tooled(sample="<tool_call>"),
    "hermes, special": tooled("<tool_call>", "</tool_call>", sample="<tool_call>"),
    "mistral": tooled("[TOOL_CALLS]", sample="[TOOL_CALLS]"),
    "later mistral": tooled("[TOOL_CALLS]", "[ARGS]", sample="[TOOL_CALLS][ARGS]"),
    "llama": tooled("<|python_tag|>", sample='"parameters"'),
    "plain": tooled(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_required_call_is_made_in_every_form(form: str) -> None:
    inside = Inside(tiny_network(FORMS[form]))
    sampling = Sampling(seed=3, n=2, max_tokens=300)
    prompt = user("x", tools=(TOOL, OTHER), tool_choice="required", parallel_tool_calls=False)
    required, named, logged = inside.ask(
        generate(prompt, sampling),
        generate(prompt.model_copy(update={"tool_choice": "paint"}), sampling),
        generate(
            user("x", tools=(TOOL,), tool_choice="paint"),
            sampling.model_copy(update={"top_logprobs": 1}),
        ),
    )
    for index in range(2):
        for told in (required, named, logged):
            ((name, arguments),) = told.calls(index)
            assert name in ("paint", "wait")
            assert told.text(index) == ""
            assert told.finished[index] == "tool_calls"
            if name == "paint":
                assert json.loads(arguments)["color"] in ("red", "blue")
        assert named.calls(index)[0][0] == "paint"
        assert logprobs(logged, index)
    ids = [call.id for piece in named.pieces for call in piece.tool_calls]
    assert len(set(ids)) == 2
    assert all(call.startswith("call_") and len(call) == 29 for call in ids)


def test_several_calls_may_be_made() -> None:
    inside = Inside(tiny_network(FORMS["hermes"]))
    line = '\n<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>'
    bias = dict.fromkeys(inside.ids("\n"), 50.0)  # where it may, the model goes on
    prompt = user("x", tools=(OTHER,), tool_choice="required")
    (told,) = inside.ask(
        generate(prompt, Sampling(temperature=0, max_tokens=3 * len(line) - 1, logit_bias=bias))
    )
    assert told.calls() == [("wait", "{}")] * 3
    assert told.finished == {0: "length"}, "as many as there was room for"


@pytest.mark.parametrize(("parallel", "count"), [(True, 2), (False, 1)])
def test_only_one_call_is_told_where_calls_may_not_be_parallel(parallel: bool, count: int) -> None:
    inside = Inside(tiny_network(FORMS["plain"]))
    schema = {"enum": [[{"name": "wait"}, {"name": "wait"}]]}
    prompt = user("x", tools=(OTHER,), parallel_tool_calls=parallel)
    # The array rather than the one call that it may make too, and without ado.
    bias = dict.fromkeys(inside.ids("["), 100.0) | dict.fromkeys(inside.ids(" \n\t"), -100.0)
    (told,) = inside.ask(
        generate(
            prompt,
            Sampling(temperature=0, max_tokens=200, logit_bias=bias),
            constraint=Constraint(json_schema=schema),
        )
    )
    assert told.calls() == [("wait", "{}")] * count
    assert told.finished == {0: "tool_calls"}


def test_a_call_that_is_cut_off_is_text() -> None:
    inside = Inside(tiny_network(FORMS["hermes"]))
    prompt = user("x", tools=(OTHER,), tool_choice="required")
    (told,) = inside.ask(generate(prompt, Sampling(temperature=0, max_tokens=30)))
    assert told.text() == '<tool_call>\n{"name": "wait", "'
    assert told.finished == {0: "length"}


def test_where_no_tool_may_be_called_nothing_is_a_call() -> None:
    inside = Inside(tiny_network(FORMS["hermes"]))
    schema = {"enum": [{"name": "wait", "arguments": {}}]}
    for choice, called in (("auto", True), ("none", False)):
        prompt = user("x", tools=(OTHER,), tool_choice=choice, parallel_tool_calls=False)
        (told,) = inside.ask(
            generate(prompt, Sampling(max_tokens=200), constraint=Constraint(json_schema=schema))
        )
        assert bool(told.calls()) is called
        assert told.finished == {0: "tool_calls" if called else "stop"}
        assert (told.text() == "") is called


def test_a_cancelled_request_leaves_at_once(inside: Inside) -> None:
    long = generate("x", drawn(1, n=2, max_tokens=400))
    short = generate("y", drawn(2, max_tokens=30))
    told = inside.begin(long)
    other = inside.begin(short)
    for _ in range(5):
        inside.batch.turn()
    inside.replies[long.id].cancel()
    inside.replies[long.id].cancel()
    assert 0 < ended(told) < 20
    while inside.batch.turn():
        assert inside.batch.running <= 1
    assert other.finished == {0: "length"}
    assert inside.done == [long.id, short.id]
    assert told.finished == {}


def test_an_adapter_that_does_not_load_hurts_nobody_else(inside: Inside) -> None:
    broken = generate("x", drawn(1, n=2), adapter="in/adapters/gone")
    sound = generate("x", drawn(1))
    told, other = inside.ask(broken, sound)
    assert isinstance(told.last, Refused)
    assert told.last.code == "invalid_model"
    assert told.pieces == []
    assert other.finished == {0: "length"}


def test_a_model_without_sound_numbers_refuses_what_it_draws() -> None:
    inside = Inside(tiny_network())
    with torch.no_grad():
        inside.network.module.model.norm.weight.fill_(math.nan)
    (told,) = inside.ask(generate("x", drawn(1, n=2)))
    assert isinstance(told.last, Refused)
    assert told.last.code == SERVER_ERROR
    assert not inside.batch.running


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (generate("x", Sampling(logit_bias={259: 1})), "logit_bias"),
        (generate("x", Sampling(logit_bias={-1: 1})), "logit_bias"),
        (generate("x" * 600), "messages"),
        (generate(Tokens(ids=(259,))), "prompt"),
        (
            generate(Conversation(messages=({"role": "user", "content": "x"},), tools=(TOOL,))),
            "tools",
        ),
        (generate("x", constraint=Constraint(json_schema={"type": "wat"})), "response_format"),
    ],
)
def test_what_cannot_be_answered_is_refused(inside: Inside, request_: Generate, param: str) -> None:
    (told,) = inside.ask(request_)
    assert isinstance(told.last, Refused)
    assert told.last.param == param
    assert told.began is None
