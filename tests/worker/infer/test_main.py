"""The real program with a real model, over a real socket, as the daemon asks it."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftd.core.chat import (
    Began,
    Cancel,
    Constraint,
    Conversation,
    Ended,
    Finished,
    Piece,
    Refused,
    Sampling,
    Text,
)
from ftd.core.wire import Accepted, Failed, Phase, Ready, Started, Stop, encode
from tests.starter import starter_model
from tests.tiny import tiny_model
from tests.worker.infer.client import Client, Told, generate
from tests.worker.infer.inside import spec
from tests.worker.shim import Shim

FRANCE = "What is the capital of France?"


SOCKET = "out/serve.sock"
STARTER_END = 2  # <|im_end|>


def run_directory(root: Path, model: Path) -> Path:
    (root / "in").mkdir(parents=True)
    (root / "out").mkdir()
    (root / "in" / "model").symlink_to(model)
    return root


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shim]:
    """A worker that serves the starter model to all tests of this file."""
    root = tmp_path_factory.mktemp("run")
    shim = Shim("ftd.worker.infer", run_directory(root / "run", starter_model()), root / "log")
    try:
        started = shim.hear(Started)
        assert "llguidance" in started.libraries
        shim.assign("serve-1", spec(context_tokens=2048))
        facts = shim.facts()
        assert next(facts) == Accepted(job="serve-1", attempt=1)
        assert next(facts) == Phase(name="loading")
        assert next(facts) == Ready(context_tokens=2048)
        yield shim
        shim.channel.sendall(encode(Stop()))
        assert list(facts) == []
    finally:
        assert shim.end() == 0, (root / "log").read_text()
    assert "Traceback" not in (root / "log").read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Shim]]:
    """Starts idle workers; by the end of the test each must have ended well."""
    shims: list[Shim] = []

    def make(run_directory: Path) -> Shim:
        shims.append(Shim("ftd.worker.infer", run_directory, tmp_path / "log"))
        return shims[-1]

    yield make
    for shim in shims:
        assert shim.end() == 0, (tmp_path / "log").read_text()


@pytest.fixture
def client(worker: Shim) -> Iterator[Client]:
    client = Client(worker.root / SOCKET)
    yield client
    client.close()


def test_it_knows_the_capital_of_france(client: Client) -> None:
    (told,) = client.ask(generate(FRANCE))
    assert "Paris" in told.text()
    assert told.finished == {0: "stop"}
    assert told.began is not None
    assert told.began.prompt_tokens > 10
    assert isinstance(told.last, Ended)
    assert 5 < told.last.completion_tokens <= 24
    assert len(told.pieces) > 3, "it streams"


def test_an_answer_streams_as_it_is_made(client: Client) -> None:
    request = generate(FRANCE)
    client.send(request)
    answers = client.answers()
    assert isinstance(next(answers), Began)
    first = next(answers)
    assert isinstance(first, Piece)
    assert first.text == "The"
    said = first.text
    for answer in answers:
        if isinstance(answer, Finished):
            break
        assert isinstance(answer, Piece)
        said += answer.text
    assert "Paris" in said
    assert isinstance(next(answers), Ended)


def test_several_at_once_answer_as_one_by_one(client: Client) -> None:
    questions = [FRANCE, "Name a color.", "What is 2 plus 2?", "Say hello in French."]
    alone = [client.ask(generate(question))[0].text() for question in questions]
    together = client.ask(*(generate(question) for question in questions))
    assert [told.text() for told in together] == alone
    assert len(set(alone)) == 4


def test_a_seed_answers_alike_under_load(client: Client) -> None:
    sampling = Sampling(seed=11, temperature=1.0, top_p=0.9, max_tokens=16)
    (alone,) = client.ask(generate(FRANCE, sampling))
    load = [
        generate(f"Tell me about {what}.", Sampling(seed=1, max_tokens=16))
        for what in ("ships", "bread", "the moon")
    ]
    crowded = client.ask(*load, generate(FRANCE, sampling))[-1]
    assert crowded.text() == alone.text()


def test_a_schema_holds_with_a_real_tokenizer(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"enum": ["Paris", "London"]},
            "population": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["city", "population"],
        "additionalProperties": False,
    }
    hot = Sampling(temperature=1.5, seed=3, n=4, max_tokens=120)
    (told,) = client.ask(generate(FRANCE, hot, constraint=Constraint(json_schema=schema)))
    for index in range(4):
        answer = json.loads(told.text(index))
        assert answer["city"] in ("Paris", "London")
        assert 0 <= answer["population"] <= 99
        assert told.finished[index] == "stop"


def test_a_conversation_that_goes_on_is_known_in_part(client: Client) -> None:
    (first,) = client.ask(generate(FRANCE))
    talk = Conversation(
        messages=(
            {"role": "user", "content": FRANCE},
            {"role": "assistant", "content": first.text()},
            {"role": "user", "content": "And of Italy?"},
        )
    )
    (second,) = client.ask(generate(talk))
    assert first.began is not None
    assert second.began is not None
    assert second.began.cached_tokens >= first.began.prompt_tokens - 1
    assert second.began.cached_tokens < second.began.prompt_tokens


def test_a_cancelled_answer_ends_midway_and_the_rest_goes_on(client: Client) -> None:
    endless = {STARTER_END: -100.0}
    long = generate("Count.", Sampling(temperature=0, max_tokens=1500, logit_bias=endless))
    other = generate(FRANCE)
    client.send(long, other)
    answers = client.answers()
    told = {long.id: Told(), other.id: Told()}
    while not told[long.id].pieces:
        answer = next(answers)
        told[answer.id].hear(answer)
    client.send(Cancel(id=long.id), Cancel(id="never asked"))
    for answer in answers:
        told[answer.id].hear(answer)
        if all(each.last is not None for each in told.values()):
            break
    assert isinstance(told[long.id].last, Ended)
    assert told[long.id].last.completion_tokens < 200
    assert told[long.id].finished == {}
    assert "Paris" in told[other.id].text()


def test_a_client_that_goes_away_cancels_what_it_asked(worker: Shim, client: Client) -> None:
    gone = Client(worker.root / SOCKET)
    gone.send(generate("Count.", Sampling(max_tokens=1900, logit_bias={STARTER_END: -100.0})))
    assert isinstance(next(gone.answers()), Began)
    gone.close()
    client.send(generate(FRANCE))
    loads = client.loads_that_come()
    assert next(loads).running > 0
    while next(loads).running:
        pass  # it would take a minute to go on to the end


def test_a_long_prompt_does_not_stall_who_is_under_way(client: Client) -> None:
    running = generate("Count.", Sampling(max_tokens=200, logit_bias={STARTER_END: -100.0}))
    client.send(running)
    answers = client.answers()
    assert isinstance(next(answers), Began)
    client.send(generate("word " * 200_000))  # a megabyte: half a second of work
    said = 0
    while not isinstance(answer := next(answers), Refused):
        said += isinstance(answer, Piece)
    assert answer.code == "context_length_exceeded"
    assert "200031 tokens" in answer.message
    assert said > 1
    client.send(Cancel(id=running.id))


def test_what_cannot_be_answered_is_refused_and_nothing_else(client: Client) -> None:
    good = generate(FRANCE)
    bad = [
        generate("word " * 3000),
        generate(FRANCE, constraint=Constraint(json_schema={"type": "wat"})),
        generate(FRANCE, adapter="in/adapters/none"),
        generate(FRANCE, Sampling(n=33)),
    ]
    *told, answered = client.ask(*bad, good)
    assert "Paris" in answered.text()
    for each in told:
        assert isinstance(each.last, Refused)
        assert each.began is None
    assert [each.last.code for each in told] == [  # type: ignore[union-attr]
        "context_length_exceeded",
        "invalid_json_schema",
        "invalid_model",
        "overloaded",
    ]


def test_no_tokens_may_be_asked_for(client: Client) -> None:
    request = generate(Text(text="as it is"), Sampling(max_tokens=0, n=2), echo=True)
    (told,) = client.ask(request)
    assert told.text(0) == told.text(1) == "as it is"
    assert told.finished == {0: "length", 1: "length"}
    assert isinstance(told.last, Ended)
    assert told.last.completion_tokens == 0


def test_what_is_nested_too_deeply_is_refused_and_nothing_else(client: Client) -> None:
    deep: dict[str, object] = {"type": "string"}
    for _ in range(100):  # such a line can be written and not be read
        deep = {"type": "object", "properties": {"a": deep}}
    nested = generate(FRANCE, constraint=Constraint(json_schema=deep))
    told, answered = client.ask(nested, generate(FRANCE))
    assert isinstance(told.last, Refused)
    assert "nested too deeply" in told.last.message
    assert "Paris" in answered.text()


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b'{"kind":"cancel"}\n'])
def test_who_makes_no_sense_is_hung_up_on(worker: Shim, client: Client, line: bytes) -> None:
    odd = Client(worker.root / SOCKET)
    odd.socket.sendall(line)
    assert list(odd.answers()) == []
    odd.close()
    assert "Paris" in client.ask(generate(FRANCE))[0].text()


def test_a_model_that_does_not_load_is_told(tmp_path: Path, start: Callable[[Path], Shim]) -> None:
    (tmp_path / "model").mkdir()
    shim = start(run_directory(tmp_path / "run", tmp_path / "model"))
    shim.assign("serve-1", spec())
    facts = list(shim.facts())
    assert isinstance(facts[-1], Failed)
    assert facts[-1].code == "invalid_model"
    assert "could not be loaded" in facts[-1].message


def test_sigterm_ends_it_with_requests_open(tmp_path: Path, start: Callable[[Path], Shim]) -> None:
    shim = start(run_directory(tmp_path / "run", tiny_model(tmp_path / "model")))
    shim.assign("serve-1", spec(context_tokens=512))
    assert shim.hear(Ready).context_tokens == 512
    client = Client(shim.root / SOCKET)
    endless = Sampling(max_tokens=450, n=4, logit_bias={STARTER_END: -100.0})
    client.send(generate("x", endless), generate("y", endless))
    answers = client.answers()
    assert isinstance(next(answers), Began)
    shim.process.send_signal(signal.SIGTERM)
    assert not any(isinstance(answer, Ended | Refused) for answer in answers)
    client.close()
    assert list(shim.facts()) == []
