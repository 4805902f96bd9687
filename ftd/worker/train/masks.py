"""Which tokens a model is taught: the assistant's words and the token that ends its turn.

A chat template says how a chat is written, not where in it the assistant speaks. We find out by
a ladder of four rungs and take the first that holds:

1. generation_tags     the template marks what is generated;
2. prefix_difference   a turn is what its messages add to the prompt that asks for it;
3. one_row_per_turn    the same, but every trained turn is a row of its own, for templates that
                       write earlier turns differently from the last one (dropped thoughts);
4. common_prefix       the turn begins where prompt and answer part, with a warning.

A row is encoded segment by segment, cut where a trained span begins and ends. So the ids of a
trained turn are ids(prompt) + ids(words): just what the model meets at inference, where the words
are generated after the prompt and no token can reach across the border.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from ftd.core.dataset import Chat, Completion
from ftd.worker.template import END_OF_THOUGHT, ChatTemplate, Conversation, RenderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """One row: ids, and of each the weight of the loss of predicting it (0: not trained)."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """An example's rows, usually one; none when there is nothing to train.

    `warnings` are codes: those of Conversation, "fallback_template", "opening_untrained",
    "common_prefix" and "thoughts_dropped".
    """

    rows: list[Tokens]
    warnings: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Trained characters of a text. `closed`: they end with an end-of-turn token."""

    start: int
    end: int
    weight: float
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A text and its trained spans, in order; what follows the last one is of no use."""

    text: str
    spans: list[Span]

    @property
    def words(self) -> list[str]:
        """What is trained of it."""
        return [self.text[span.start : span.end] for span in self.spans]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An assistant message to be trained: where it stands, and how much it weighs."""

    index: int
    weight: float


def encode(template: ChatTemplate, example: Chat | Completion) -> Encoded:
    """The rows of an example. Raises RenderError when the chat template refuses it."""
    if isinstance(example, Completion):
        return Encoded(rows=[_completion(template, example)])
    return _chat(template, example)


def _completion(template: ChatTemplate, example: Completion) -> Tokens:
    encoder = template.encoder
    given = encoder.opening + encoder.ids(encoder.quote(example.prompt))
    words = encoder.quote(example.completion, assistant=True)
    answer = encoder.ids(words, continues=bool(example.prompt))
    if encoder.eos is not None:
        answer.append(encoder.eos)
    return _tokens(given + answer, [0.0] * len(given) + [1.0] * len(answer))


def _chat(template: ChatTemplate, example: Chat) -> Encoded:
    chat = template.read(example.messages, example.tools)
    warnings = set(chat.warnings)
    if template.fallback:
        warnings.add("fallback_template")
    turns = [
        Turn(index=index, weight=weight)
        for index, weight in enumerate(example.weights[chat.dropped :])
        if weight
    ]
    if turns and turns[0].index == 0:  # nobody can ask for an answer to nothing
        warnings.add("opening_untrained")
        turns = turns[1:]
    if not turns:
        return Encoded(rows=[], warnings=frozenset(warnings))
    rung, texts = _climb(chat, turns)
    if rung is common_prefix:
        warnings.add("common_prefix")
    if _thoughts(example) and not any(END_OF_THOUGHT in "".join(text.words) for text in texts):
        warnings.add("thoughts_dropped")
    return Encoded(rows=[_row(template, text) for text in texts], warnings=frozenset(warnings))


def _thoughts(example: Chat) -> bool:
    """Whether the words to be trained hold a thought."""
    return any(
        weight and END_OF_THOUGHT in (message.get("content") or "")
        for message, weight in zip(example.messages, example.weights, strict=True)
    )


Rung = Callable[[Conversation, list[Turn]], list[Marked] | None]


def _climb(chat: Conversation, turns: list[Turn]) -> tuple[Rung, list[Marked]]:
    for rung in (generation_tags, prefix_difference, one_row_per_turn, common_prefix):
        texts = rung(chat, turns)
        if texts is not None:
            return rung, texts
    raise RenderError("it hides where the assistant's words begin")


def generation_tags(chat: Conversation, turns: list[Turn]) -> list[Marked] | None:
    """Holds when every assistant message has its tag, and every tag spans an end-of-turn."""
    whole, generated = chat.tagged()
    speakers = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if len(generated) != len(speakers):
        return None
    tags = dict(zip(speakers, generated, strict=True))
    spans = []
    for turn in turns:
        start, end = tags[turn.index]
        # A tag may take in the header, or a beginning that the prompt holds already.
        start = max(start, _parting(chat, chat.text(turn.index, prompt=True), whole))
        span = _span(chat, whole[:end], start, turn)
        if not span.closed:
            return None
        spans.append(span)
    return [Marked(text=whole, spans=spans)]


def prefix_difference(chat: Conversation, turns: list[Turn]) -> list[Marked] | None:
    """Holds when every prompt, and every turn to its end, is a prefix of the whole chat."""
    whole = chat.text()
    spans = []
    for turn in turns:
        prompt, answered = _before_and_after(chat, turn)
        span = _span(chat, answered, len(prompt), turn)
        if not (answered.startswith(prompt) and whole.startswith(answered[: span.end])):
            return None
        spans.append(span)
    return [Marked(text=whole, spans=spans)]


def one_row_per_turn(chat: Conversation, turns: list[Turn]) -> list[Marked] | None:
    """Holds when every prompt is a prefix of the chat that ends with its answer."""
    texts = []
    for turn in turns:
        prompt, answered = _before_and_after(chat, turn)
        if not answered.startswith(prompt):
            return None
        texts.append(Marked(text=answered, spans=[_span(chat, answered, len(prompt), turn)]))
    return texts


def common_prefix(chat: Conversation, turns: list[Turn]) -> list[Marked] | None:
    """Holds when prompt and answer part no earlier than where the messages before end."""
    texts = []
    for turn in turns:
        prompt, answered = _before_and_after(chat, turn)
        start = _parting(chat, prompt, answered)
        if start < _parting(chat, chat.text(turn.index), answered):
            return None
        texts.append(Marked(text=answered, spans=[_span(chat, answered, start, turn)]))
    return texts


def _before_and_after(chat: Conversation, turn: Turn) -> tuple[str, str]:
    return chat.text(turn.index, prompt=True), chat.text(turn.index + 1)


def _parting(chat: Conversation, one: str, other: str) -> int:
    """Where two texts part; never inside a control token of either."""
    shorter = min(len(one), len(other))
    part = bisect_left(range(shorter), True, key=lambda at: one[: at + 1] != other[: at + 1])
    cut = [
        token.start()
        for text in (one, other)
        for token in chat.template.encoder.control.finditer(text)
        if token.start() < part < token.end()
    ]
    return min([part, *cut])


def _span(chat: Conversation, text: str, start: int, turn: Turn) -> Span:
    """The turn that ends `text`, up to the token that ends it.

    The end of a turn is the first run of adjoining special tokens after the last word. White
    space behind it, and what some templates write after the last turn of a chat, is not the
    assistant's. A turn without such a token (`closed` is false) ends with its last word.
    """
    end, behind = len(text.rstrip()), len(text)
    closed = False
    for token in reversed(list(chat.template.encoder.special.finditer(text, start))):
        if text[token.end() : behind].strip():
            break
        if token.end() < behind:
            end = token.end()
        behind, closed = token.start(), True
    return Span(start=start, end=max(start, end), weight=turn.weight, closed=closed)


def _row(template: ChatTemplate, marked: Marked) -> Tokens:
    encoder = template.encoder
    ids: list[int] = []
    weights: list[float] = []
    at = 0
    for span in marked.spans:
        for text, weight in (
            (marked.text[at : span.start], 0.0),
            (marked.text[span.start : span.end], span.weight),
        ):
            piece = encoder.ids(text, continues=bool(ids))
            ids += piece
            weights += [weight] * len(piece)
        at = span.end
    last = marked.spans[-1]
    if not last.closed and encoder.eos is not None:
        ids.append(encoder.eos)
        weights.append(last.weight)
    return _tokens(ids, weights)


def _tokens(ids: list[int], weights: list[float]) -> Tokens:
    """Nothing stands before the first token that could predict it."""
    return Tokens(ids=ids, weights=[0.0, *weights[1:]] if weights else [])
