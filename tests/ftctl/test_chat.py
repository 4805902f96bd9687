"""ftctl chat, as processes: one prompt in a pipe, a conversation at a terminal."""

import json
import signal
from collections.abc import Awaitable, Callable

from ftd.core import chat
from tests.api.grpc.fake_chat import question
from tests.ftctl.conftest import Daemon, ended
from tests.ftctl.terminal import typing

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def test_one_prompt_and_nothing_but_its_answer(daemon: Daemon) -> None:
    ran = await daemon.run(
        "chat", "smollm2", "six times seven", "--system", "Be brief.", "--temperature", "0",
        "--max-tokens", "5", "--seed", "7", "--top-p", "0.5",
    )  # fmt: skip
    assert (ran.status, ran.out, ran.err) == (0, "You said: six times seven\n", "")
    (asked,) = daemon.door.chat.asked
    assert asked.sampling == chat.Sampling(temperature=0, max_tokens=5, seed=7, top_p=0.5)
    assert isinstance(asked.prompt, chat.Conversation)
    assert asked.prompt.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "six times seven"},
    )


async def test_a_prompt_from_stdin(daemon: Daemon) -> None:
    for args in (["-"], []):
        ran = await daemon.run("chat", "smollm2", *args, given="a\nb \u00e9\n".encode())
        assert (ran.status, ran.out) == (0, "You said: a\nb \u00e9\n")
    for given, words in ((b" \n", "stdin holds no prompt"), (b"\xff", "stdin is not UTF-8")):
        ran = await daemon.run("chat", "smollm2", given=given)
        assert (ran.status, ran.out) == (2, "")
        assert words in ran.err
    assert len(daemon.door.chat.asked) == 2


async def test_text_goes_into_a_pipe_as_it_is(daemon: Daemon) -> None:
    daemon.door.chat.says = lambda _: "\x1b[31mred\x07"
    assert (await daemon.run("chat", "smollm2", "x")).out == "\x1b[31mred\x07\n"
    async with typing(daemon, "chat", "smollm2", "x") as terminal:
        await terminal.until("\\x1b[31mred\\x07")
        assert await terminal.ended() == 0


async def test_the_whole_answer_as_json(daemon: Daemon) -> None:
    from openai.types.chat import ChatCompletion

    daemon.door.chat.calls = (chat.ToolCall(id="call_1", name="f", arguments="{}"),)
    ran = await daemon.run("chat", "smollm2", "x", "-o", "json")
    found = json.loads(ran.out)
    answer = ChatCompletion.model_validate(found, strict=True)
    (choice,) = answer.choices
    assert (answer.id, answer.model, choice.finish_reason) == (
        "chatcmpl-1",
        "smollm2",
        "tool_calls",
    )
    assert choice.message.content == "You said: x"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].id == "call_1"
    assert found["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_how_it_fails(daemon: Daemon) -> None:
    ran = await daemon.run("chat", "gpt-9", "x")
    assert (ran.status, ran.out) == (3, "")
    assert "`ftctl models list` shows the models" in ran.err
    ran = await daemon.run("chat", "smollm2", "x", "--temperature", "3")
    assert ran.status == 1
    assert "'temperature'" in ran.err
    ran = await daemon.run("chat", "smollm2", "x", FTD_API_KEY="wrong-key-of-sufficient-length")
    assert ran.status == 4
    daemon.door.chat.die_at = 2
    ran = await daemon.run("chat", "smollm2", "x")
    assert (ran.status, ran.out) == (1, "You said:\n")
    assert ran.err == "ftctl: The inference worker has ended; try again.\n"
    await daemon.stop()
    assert (await daemon.run("chat", "smollm2", "x")).status == 7


async def test_an_interrupt_ends_the_work(daemon: Daemon, until: Until) -> None:
    daemon.door.chat.stall_at = 2
    process = await daemon.begin("chat", "smollm2", "x")
    assert process.stdout is not None
    assert await process.stdout.readexactly(9) == b"You said:"
    process.send_signal(signal.SIGINT)
    ran = await ended(process)
    assert (ran.status, ran.out, ran.err) == (130, "\n", "")
    await until(lambda: daemon.door.chat.running == 0)


async def test_a_conversation_remembers_until_it_is_reset(daemon: Daemon) -> None:
    async with typing(daemon, "chat", "smollm2", "--system", "Be brief.") as terminal:
        await terminal.until("/reset forgets")
        terminal.type("one\n")
        await terminal.until("You said: one")
        terminal.type("two\n")
        await terminal.until("You said: two")
        terminal.type("\n/reset\n")
        await terminal.until("forgotten")
        terminal.type("three\n")
        await terminal.until("You said: three")
        terminal.type("/quit\n")
        assert await terminal.ended() == 0
    said = [
        [(one["role"], one["content"]) for one in asked.prompt.messages]
        for asked in daemon.door.chat.asked
        if isinstance(asked.prompt, chat.Conversation)
    ]
    system = ("system", "Be brief.")
    first = [system, ("user", "one")]
    assert said == [
        first,
        [*first, ("assistant", "You said: one"), ("user", "two")],
        [system, ("user", "three")],
    ]


async def test_ctrl_c_stops_the_answer_and_not_the_conversation(daemon: Daemon) -> None:
    daemon.door.chat.stall_at = 2
    async with typing(daemon, "chat", "smollm2") as terminal:
        await terminal.until("> ")
        terminal.type("one\n")
        await terminal.until("You said:")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.until("stopped")
        daemon.door.chat.stall_at = None
        daemon.door.chat.die_at = 1
        terminal.type("two\n")
        await terminal.until("The inference worker has ended")
        daemon.door.chat.die_at = None
        terminal.type("three\n")
        await terminal.until("You said: three")
        await terminal.until("> ")
        terminal.type("\x04")
        assert await terminal.ended() == 0
    last = daemon.door.chat.asked[-1].prompt
    assert isinstance(last, chat.Conversation)
    assert [one["content"] for one in last.messages] == ["one", "You said:", "three"]
    assert [question(asked) for asked in daemon.door.chat.asked] == ["one", "two", "three"]


async def test_a_conversation_with_nobody_is_refused_before_it_begins(daemon: Daemon) -> None:
    async with typing(daemon, "chat", "gpt-9") as terminal:
        await terminal.until("does not exist")
        assert await terminal.ended() == 3
