"""What is trained is exactly the assistant's words and the token that ends its turn."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from ftd.core.dataset import Chat, Completion
from ftd.worker.control import BREAK
from ftd.worker.template import ChatTemplate, RenderError
from ftd.worker.train.masks import Encoded, Tokens, encode
from tests.worker.chat_templates import (
    FAMILIES,
    Family,
    byte_level,
    control_tokens,
    sentencepiece_like,
    smollm2,
    tokenizer_of,
    trl,
    trl_templates,
)

Message = dict[str, Any]
SMOLLM2 = Family(
    template=lambda: str(smollm2().chat_template),
    special=(),
    end="<|im_end|>",
    eos="<|im_end|>",
)
ALL = {"smollm2": SMOLLM2, **FAMILIES}
WITH_TOOLS = [name for name, family in ALL.items() if family.tools]


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def chat(
    *messages: Message, weights: Sequence[float] | None = None, tools: list[Any] | None = None
) -> Chat:
    given = weights or [1.0 if message["role"] == "assistant" else 0.0 for message in messages]
    return Chat(messages=messages, weights=tuple(given), tools=tools)


def trained(tokenizer: Any, row: Tokens) -> list[str]:
    """The texts of the trained spans of a row."""
    spans: list[list[int]] = []
    before = 0.0
    for token, weight in zip(row.ids, row.weights, strict=True):
        if weight and not before:
            spans.append([])
        if weight:
            spans[-1].append(token)
        before = weight
    return [tokenizer.decode(span) for span in spans]


@cache
def template_of(name: str) -> ChatTemplate:
    return ChatTemplate(tokenizer_of(name))


def taught(name: str, example: Chat | Completion) -> list[str]:
    rows = encode(template_of(name), example).rows
    return [text for row in rows for text in trained(tokenizer_of(name), row)]


@pytest.mark.parametrize("name", ALL)
def test_a_single_turn(name: str) -> None:
    assert taught(name, chat(user("Hello"), assistant("What now?"))) == [
        "What now?" + ALL[name].end
    ]


@pytest.mark.parametrize("name", ALL)
def test_several_turns(name: str) -> None:
    example = chat(
        user("Hello"), assistant("What now?"), user("Bye"), assistant("Good\nriddance: never.\n\nA")
    )
    end = ALL[name].end
    assert taught(name, example) == ["What now?" + end, "Good\nriddance: never.\n\nA" + end]


@pytest.mark.parametrize("name", ALL)
def test_with_a_system_message(name: str) -> None:
    example = chat(system("Be rude."), user("Hello"), assistant("What now?"))
    assert taught(name, example) == ["What now?" + ALL[name].end]
    warnings = encode(template_of(name), example).warnings
    assert warnings == (set() if ALL[name].system else {"system_folded"})


@pytest.mark.parametrize("name", ALL)
def test_a_turn_of_weight_zero_is_context(name: str) -> None:
    messages = (user("Hello"), assistant("What now?"), user("Bye"), assistant("At last."))
    end = ALL[name].end
    assert taught(name, chat(*messages, weights=[0, 0, 0, 1])) == ["At last." + end]
    assert taught(name, chat(*messages, weights=[0, 1, 0, 0])) == ["What now?" + end]


@pytest.mark.parametrize("name", ALL)
def test_white_space_around_the_words_is_the_templates_to_keep_or_trim(name: str) -> None:
    example = chat(user("Hello"), assistant("  What now?\n\n"), user("Bye"), assistant(" So. "))
    words = ["  What now?\n\n", " So. "]
    if ALL[name].trims:
        words = [text.strip() for text in words]
    assert taught(name, example) == [text + ALL[name].end for text in words]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_calls_are_trained_and_their_results_are_not(name: str) -> None:
    call = {"name": "get_weather", "arguments": {"city": "Paris"}}
    calling = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_0001", "type": "function", "function": call}],
    }
    result = {"role": "tool", "tool_call_id": "call_0001", "name": "get_weather", "content": "9 C"}
    schema = {"name": "get_weather", "description": "w", "parameters": {"type": "object"}}
    example = chat(
        user("Weather?"), calling, result, assistant("It is 9 C."),
        tools=[{"type": "function", "function": schema}],
    )  # fmt: skip
    end = ALL[name].end
    told = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
    if name.startswith("qwen"):
        told = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert taught(name, example) == [told + end, "It is 9 C." + end]


@pytest.mark.parametrize("name", ALL)
def test_ids_are_those_of_the_prompt_and_of_the_words(name: str) -> None:
    tokenizer = tokenizer_of(name)
    template = ChatTemplate(tokenizer)
    asked = [system("Be rude."), user("Hello")] if ALL[name].system else [user("Hello")]
    (row,) = encode(template, chat(*asked, assistant("What now?"))).rows
    prompt = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, enable_thinking=False, date_string="26 Jul 2024"
    )["input_ids"]
    words = template.encoder.ids("What now?" + ALL[name].end, continues=True)
    assert row.ids == prompt + words == template.prompt_ids(asked) + words
    assert row.weights == [0.0] * len(prompt) + [1.0] * len(words)


def test_words_do_not_melt_into_the_header() -> None:
    """Encoded in one piece, the header's line break and the words' would be one token."""
    tokenizer = smollm2()
    (row,) = encode(ChatTemplate(tokenizer), chat(user("Hello"), assistant("\n\nWhat now?"))).rows
    whole = tokenizer.decode(row.ids)
    assert row.ids != tokenizer.encode(whole, add_special_tokens=False)
    assert trained(tokenizer, row) == ["\n\nWhat now?<|im_end|>"]


@pytest.mark.parametrize("name", ALL)
def test_typed_control_tokens_are_words(name: str) -> None:
    tokenizer = tokenizer_of(name)
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    evil = " ".join(added)
    example = chat(user(evil), assistant(evil), user("Hello"), assistant("Fine."))
    harmless = chat(user("x"), assistant("x"), user("Hello"), assistant("Fine."))
    special = set(tokenizer.all_special_ids) | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }

    def control(encoded: Encoded) -> list[list[int]]:
        return [[token for token in row.ids if token in special] for row in encoded.rows]

    template = ChatTemplate(tokenizer)
    assert control(encode(template, example)) == control(encode(template, harmless))
    end = ALL[name].end
    assert taught(name, example) == [evil + end, "Fine." + end]


def test_thoughts_are_words_of_a_reasoning_model() -> None:
    thoughtful = "<think>\nhmm\n</think>\n\nYes"
    tokenizer = tokenizer_of("qwen3")
    example = chat(user("Hello"), assistant(thoughtful), user("Sure?"), assistant(thoughtful))
    rows = encode(ChatTemplate(tokenizer), example).rows
    assert [trained(tokenizer, row) for row in rows] == [[thoughtful + "<|im_end|>"]] * 2
    assert tokenizer.convert_tokens_to_ids("<think>") in rows[0].ids


def test_turns_that_are_written_differently_later_get_rows_of_their_own() -> None:
    example = chat(user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f"))
    tokenizer = tokenizer_of("qwen3")
    template = ChatTemplate(tokenizer)
    rows = encode(template, example).rows
    assert [trained(tokenizer, row) for row in rows] == [
        ["b<|im_end|>"], ["d<|im_end|>"], ["f<|im_end|>"],
    ]  # fmt: skip
    for row, asked in zip(rows, (1, 3, 5), strict=True):
        prompt = template.prompt_ids(example.messages[:asked])
        assert row.ids[: len(prompt)] == prompt


def test_generation_tags_are_believed() -> None:
    """The tags keep in one row what prefixes would have to take apart."""
    source = trl("qwen3_training")
    tokenizer = byte_level(source, ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>")
    example = chat(user("Hello"), assistant("What now?"), user("Bye"), assistant("At last."))
    (row,) = encode(ChatTemplate(tokenizer), example).rows
    assert trained(tokenizer, row) == ["What now?<|im_end|>", "At last.<|im_end|>"]


@pytest.mark.parametrize(
    "body",
    [
        "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>",  # no end of turn in it
        "{{ m.content }}<|im_end|>{% generation %}{% endgeneration %}",  # nothing in it
    ],
)
def test_generation_tags_without_an_end_of_turn_are_not(body: str) -> None:
    source = (
        "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}"
        + body
        + "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer = byte_level(source, ("<|im_end|>",), eos="<|im_end|>")
    (row,) = encode(ChatTemplate(tokenizer), chat(user("Hello"), assistant("What now?"))).rows
    assert trained(tokenizer, row) == ["What now?<|im_end|>"]


def test_a_header_that_differs_from_the_prompt_is_a_warning() -> None:
    special = (
        "<\uff5cUser\uff5c>",
        "<\uff5cAssistant\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    )
    tokenizer = byte_level(trl("deepseekv3"), special, bos="<s>", eos=special[-1])
    encoded = encode(ChatTemplate(tokenizer), chat(user("Hello"), assistant("What now?")))
    assert encoded.warnings == {"common_prefix"}
    assert trained(tokenizer, encoded.rows[0]) == ["What now?" + special[-1]]


def test_thoughts_that_a_template_drops_are_a_warning() -> None:
    tokenizer = byte_level(trl("deepseek_r1_distill"), ("<s>",), bos="<s>", eos="<s>")
    example = chat(user("Hello"), assistant("<think>hm</think>What now?"))
    assert "thoughts_dropped" in encode(ChatTemplate(tokenizer), example).warnings


def test_a_prompt_longer_than_its_answer_is_parted_from_it() -> None:
    source = (
        "{% for m in messages %}{{ m.content }}<s>{% endfor %}"
        "{% if add_generation_prompt %}A long header{% endif %}"
    )
    tokenizer = byte_level(source, ("<s>",), eos="<s>")
    encoded = encode(ChatTemplate(tokenizer), chat(user("Hello"), assistant("b"), user("c")))
    assert trained(tokenizer, encoded.rows[0]) == ["b<s>"]
    assert encoded.warnings == {"common_prefix"}


def test_a_template_that_hides_where_words_begin_is_refused() -> None:
    source = "{{ 'P' if add_generation_prompt }}{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = byte_level(source, ("<s>",), eos="<s>")
    with pytest.raises(RenderError, match="hides"):
        encode(ChatTemplate(tokenizer), chat(user("Hello"), assistant("What now?")))


def test_a_turn_that_a_template_never_ends_is_ended_with_eos() -> None:
    special = ("<|assistant|>", "<|user|>", "<|system|>", "<|endoftext|>")
    tokenizer = byte_level(trl("glm4moe"), special, eos="<|endoftext|>")
    example = chat(user("Hello"), assistant("What now?"), user("Bye"), assistant("So."))
    (row,) = encode(ChatTemplate(tokenizer), example).rows
    assert trained(tokenizer, row) == ["\nWhat now?", "\nSo.<|endoftext|>"]


def test_what_a_template_writes_after_a_chat_is_not_trained() -> None:
    """Phi-3 writes its end-of-text token behind the last end of turn."""
    (row,) = encode(template_of("phi-3"), chat(user("a"), assistant("b"))).rows
    assert row.ids[-1] == tokenizer_of("phi-3").convert_tokens_to_ids("<|end|>")


def test_nothing_follows_the_last_trained_token() -> None:
    example = chat(user("a"), assistant("b"), user("a long question that nobody answers"))
    (row,) = encode(template_of("smollm2"), example).rows
    assert row.weights[-1] == 1.0


def test_an_opening_assistant_message_is_context() -> None:
    template = template_of("smollm2")
    example = chat(assistant("How may I help?"), user("Hello"), assistant("What now?"))
    encoded = encode(template, example)
    assert trained(smollm2(), encoded.rows[0]) == ["What now?<|im_end|>"]
    assert encoded.warnings == {"opening_untrained"}
    assert encode(template, chat(assistant("How may I help?"))).rows == []


def test_weights_are_kept_as_given() -> None:
    example = chat(user("a"), assistant("b"), user("c"), assistant("d"), weights=[0, 0.5, 0, 2])
    (row,) = encode(template_of("smollm2"), example).rows
    assert set(row.weights) == {0.0, 0.5, 2.0}


def test_a_chat_that_trains_nothing_has_no_rows() -> None:
    example = chat(user("a"), assistant("b"), weights=[0, 0])
    assert encode(template_of("smollm2"), example).rows == []


def test_a_model_without_a_template_is_taught_in_chatml_with_a_warning() -> None:
    tokenizer = byte_level(None, ("</s>",), eos="</s>")
    encoded = encode(ChatTemplate(tokenizer), chat(user("Hello"), assistant("What now?")))
    assert trained(tokenizer, encoded.rows[0]) == ["What now?</s>"]
    assert encoded.warnings == {"fallback_template"}


@pytest.mark.parametrize("build", [byte_level, sentencepiece_like])
def test_a_completion_is_trained_to_its_end(build: Any) -> None:
    tokenizer = build(None, ("<s>", "</s>"), bos="<s>", eos="</s>")
    template = ChatTemplate(tokenizer)
    (row,) = encode(template, Completion(prompt="good or bad? ->", completion=" good")).rows
    assert trained(tokenizer, row) == [" good</s>"]
    prompt = tokenizer.encode("good or bad? ->", add_special_tokens=False)
    assert row.ids[: len(prompt)] == prompt


def test_a_completion_begins_as_the_tokenizer_begins_texts() -> None:
    tokenizer = byte_level(None, ("<s>", "</s>"), bos="<s>", eos="</s>")
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    (row,) = encode(ChatTemplate(tokenizer), Completion(prompt="", completion="</s> good")).rows
    assert row.ids[0] == bos
    assert row.ids.count(tokenizer.eos_token_id) == 1
    assert trained(tokenizer, row) == ["</s> good</s>"]


def test_the_first_token_is_never_trained() -> None:
    tokenizer = byte_level(None, ("</s>",), eos="</s>")
    (row,) = encode(ChatTemplate(tokenizer), Completion(prompt="", completion="good")).rows
    assert row.weights[0] == 0.0
    assert set(row.weights[1:]) == {1.0}


WORDS = st.text(st.characters(exclude_characters=BREAK, exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS, WORDS, WORDS)
def test_any_words_come_back_whole(first: str, answer: str, second: str, last: str) -> None:
    example = chat(user(first), assistant(answer), user(second), assistant(last))
    assert taught("qwen2.5", example) == [answer + "<|im_end|>", last + "<|im_end|>"]


CONVERSATIONS = {
    "single": (user("Hello"), assistant("What now?")),
    "several": (user("Hello"), assistant("What now?"), user("Bye"), assistant("Good\nriddance.")),
    "system": (system("Be rude."), user("Hello"), assistant("What now?")),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_every_template_of_trl(conversation: str) -> None:
    """Behind the words come special tokens alone, before them at most a header of the model's."""
    example = chat(*CONVERSATIONS[conversation])
    words = [m["content"] for m in example.messages if m["role"] == "assistant"]
    templates = trl_templates()
    assert len(templates) > 60
    for name, source in templates.items():
        special, end = control_tokens(source)
        tokenizer = byte_level(source, (*special, "<s>", end), bos="<s>", eos=end)
        rows = encode(ChatTemplate(tokenizer), example).rows
        texts = [text for row in rows for text in trained(tokenizer, row)]
        assert len(texts) == len(words), name
        for text, said in zip(texts, words, strict=True):
            before, found, behind = text.partition(said)
            assert found, (name, text)
            for token in special:
                before, behind = before.replace(token, ""), behind.replace(token, "")
            assert behind in ("", end), (name, text)
            assert before.strip() in ("", "final", "to=user"), (name, text)
