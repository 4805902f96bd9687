"""A model's chat template is anybody's program: it cannot get out, and cannot eat the machine."""

import resource
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from ftd.api.rest.chat_bodies import ChatBody
from ftd.core.chat import Conversation, Generate, decode_asked, encode
from ftd.core.errors import FtdError
from ftd.core.wire import WireError
from ftd.worker.template import ChatTemplate, RenderError, Unbounded
from tests.worker.chat_templates import FAMILIES, byte_level, trl_templates

USER = {"role": "user", "content": "Hello there"}
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Spain?"},
]
DOUBLED = (
    "{% set ns = namespace(x='xx') %}{% for i in range(60) %}{% set ns.x = WHAT %}{% endfor %}"
)
HUGE = "10000000000"

BOMBS: dict[str, str] = {
    # what takes hours
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}" * 2
    + "{% endfor %}" * 2,
    "a loop that calls itself": "{% for a in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "a macro that calls itself twice": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "a block that calls itself twice": (
        "{% block b %}{% if n is not defined %}{{ self.b() }}{{ self.b() }}{% endif %}"
        "{% endblock %}"
    ),
    "filters that are drawn": (
        "{% for a in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}"
    ),
    "tests that are drawn": (
        "{% for a in range(99999) %}{{ range(99999) | select('odd') | list | length }}{% endfor %}"
    ),
    "a power": "{{ 9 ** (9 ** 9) }}",
    "squares of squares": "{% set ns = namespace(x=9) %}{% for i in range(60) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "many decimals": f"{{{{ 1.5 | round({HUGE}) }}}}",
    # what takes gigabytes
    "a text times much": f"{{{{ 'x' * {HUGE} }}}}",
    "much times a text": f"{{{{ ({HUGE} * 'x') | length }}}}",
    "a list times much": f"{{{{ ([1] * {HUGE}) | length }}}}",
    "constants at compile time": "{% if false %}{{ 'x' * 10000000000 }}{% endif %}"
    "{{ 'x' | replace('', 'x' * 100000000) }}",
    "sums": DOUBLED.replace("WHAT", "ns.x + ns.x"),
    "joined by a tilde": DOUBLED.replace("WHAT", "ns.x ~ ns.x"),
    "joined by join": DOUBLED.replace("WHAT", "[ns.x, ns.x] | join"),
    "joined by the method": DOUBLED.replace("WHAT", "ns.x.join([ns.x, ns.x])"),
    "replaced": DOUBLED.replace("WHAT", "ns.x | replace('x', 'xx')"),
    "replaced by the method": DOUBLED.replace("WHAT", "ns.x.replace('x', ns.x)"),
    "formatted": DOUBLED.replace("WHAT", "'%s%s' % (ns.x, ns.x)"),
    "formatted by the filter": DOUBLED.replace("WHAT", "'%s%s' | format(ns.x, ns.x)"),
    "formatted by the method": DOUBLED.replace("WHAT", "'{0}{0}'.format(ns.x)"),
    "set in a block": DOUBLED.replace(
        "{% set ns.x = WHAT %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    ),
    "lists of lists that are printed": DOUBLED.replace("WHAT", "[ns.x, ns.x]") + "{{ ns.x }}",
    "lists of lists as JSON": DOUBLED.replace("WHAT", "[ns.x, ns.x]") + "{{ ns.x | tojson }}",
    "lists of lists compared": (
        DOUBLED.replace("WHAT", "[ns.x, ns.x]")
        + DOUBLED.replace("WHAT", "[ns.y, ns.y]").replace("ns.x =", "ns.y =").replace("(x=", "(y=")
    ),
    "tuples of tuples": DOUBLED.replace("WHAT", "(ns.x, ns.x)"),
    "objects of objects": DOUBLED.replace("WHAT", "{'a': ns.x, 'b': ns.x}"),
    "objects that are called": DOUBLED.replace("WHAT", "dict(a=ns.x, b=ns.x)"),
    "one text a million times": (
        "{% set x = 'x' * 99999 %}{% set l = [x] %}{% set ns = namespace(l=l) %}"
        "{% for i in range(20) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}"
    ),
    "one text a million times, sorted": (
        "{% set x = 'x' * 99999 %}{% set ns = namespace(l=[x]) %}"
        "{% for i in range(20) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ (ns.l | sort)[0] }}"
    ),
    "one text in many slices": (
        "{% set x = 'x' * 999999 %}{% set ns = namespace(l=[]) %}"
        "{% for i in range(99999) %}{% set ns.l = ns.l + [x[1:]] %}{% endfor %}"
    ),
    "a width": f"{{{{ '%{HUGE}d' % 1 }}}}",
    "a width by its name": "{{ '%(a)9999999999d' % {'a': 1} }}",
    "a width that is an argument": f"{{{{ '%*d' % ({HUGE}, 1) }}}}",
    "a width of the method": f"{{{{ '{{:>{HUGE}}}'.format(1) }}}}",
    "a width within a width": f"{{{{ '{{:{{}}}}'.format(1, {HUGE}) }}}}",
    "a width of a map": f"{{{{ '{{a:>{HUGE}}}'.format_map({{'a': 1}}) }}}}",
    "a width in other digits": "{{ '{:>WWWWWWWWW}'.format(1) }}".replace("W", "\uff19"),
    "an indentation": f"{{{{ 'x\\ny' | indent({HUGE}) }}}}",
    "an indentation of JSON": f"{{{{ [[1]] | tojson(indent={HUGE}) }}}}",
    "separators of JSON": "{{ range(9999) | list | tojson(separators=('x' * 99999, ':')) }}",
    "a separator": "{{ range(99999) | join('x' * 99999) }}",
    "a separator of letters": "{{ ('x' * 99999) | join('x' * 99999) }}",
    "a separator of what is drawn": "{{ range(99999) | map('string') | join('x' * 9999) }}",
    "a separator of the method": "{{ ('x' * 99999).join('x' * 99999) }}",
    "a separator of the method, of what is drawn": (
        "{{ ('x' * 9999).join(range(99999) | map('string')) }}"
    ),
    "characters to strip": "{{ ('x' * 99999).strip('y' * 99999) }}",
    "characters to trim": "{{ ('x' * 99999) | trim('y' * 99999) }}",
    "a search from the end": (
        "{% set x = 'a' * 999999 %}{{ x.rfind('ab' ~ x) }}{{ x[1:].rindex('ab' ~ x[2:]) }}"
    ),
    "a search from the end in half": "{% set x = 'a' * 999999 %}{{ x.rfind('ab' ~ x[499999:]) }}",
    "parts from the end": "{% set x = 'a' * 999999 %}{{ x.rpartition('ab' ~ x[499999:])[0] }}",
    "a split from the end": "{% set x = 'a' * 99999 %}{{ x.rsplit('ab' ~ x[49999:])[0] }}",
    "a date that is padded": "{% set x = '%999d' * 10000 %}{{ strftime_now(x) }}",
    "keys that look at each other": (
        "{% set x = {" + ",".join(f"{at * (2**61 - 1)}: 1" for at in range(1, 9999)) + "} %}"
    ),
    "keys of a list that look at each other": (
        "{{ dict(range(1, 99999 * 2305843009213693951, 2305843009213693951) | groupby('real')) }}"
    ),
    "loops in more loops than Python has": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "plain text in a loop": "{% for i in range(99999) %}" + 9999 * "x" + "{% endfor %}",
    "plain text in a loop with tags": (
        "{% generation %}{% endgeneration %}{% for i in range(99999) %}"
        + 9999 * "x"
        + "{% endfor %}"
    ),
}

NOT_THERE: dict[str, str] = {
    # filters and methods that pad, or that hand out memory, and that no chat needs
    "center": f"{{{{ 'x' | center({HUGE}) }}}}",
    "batch": f"{{{{ [1] | batch({HUGE}, 'x') | list }}}}",
    "slice": f"{{{{ [1] | slice({HUGE}) | list }}}}",
    "wordwrap": "{{ 'x' | wordwrap(1) }}",
    "urlize": "{{ 'x' | urlize }}",
    "pprint": "{{ messages | pprint }}",
    "ljust": f"{{{{ 'x'.ljust({HUGE}) }}}}",
    "zfill": f"{{{{ 'x'.zfill({HUGE}) }}}}",
    "expandtabs": f"{{{{ '\\t'.expandtabs({HUGE}) }}}}",
    "translate": "{{ 'x'.translate({120: 'xxxx'}) }}",
    "to_bytes": f"{{{{ (1).to_bytes({HUGE}, 'big') }}}}",
    "fromkeys": "{{ dict.fromkeys(range(9)) }}",
    "lipsum": "{{ lipsum(n=99999) }}",
    "a long range": f"{{{{ range({HUGE}) | list }}}}",
}

ESCAPES: dict[str, str] = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr": "{{ '' | attr('__class__') }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': ''}) }}",
    "a format that is mapped": "{{ ['{0.__class__}'] | map('format', '') | list }}",
    "globals of a function": "{{ raise_exception.__globals__.os }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
    "globals of a namespace": "{{ namespace.__init__.__globals__['sys'] }}",
    "a namespace's own": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__.x }}",
    "cycler": "{{ cycler.__init__.__globals__.os.mkdir('CANARY') }}",
    "joiner": "{{ joiner.__init__.__globals__.os.mkdir('CANARY') }}",
    "self": "{{ self.__init__.__globals__ }}",
    "self's template": "{{ self._TemplateReference__context.environment }}",
    "a file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}{{ os.mkdir('CANARY') }}",
    "a parent": "{% extends '/etc/passwd' %}",
    "a change of the messages": "{{ messages.append(1) }}",
    "a change of a message": "{{ messages[0].update({'role': 'system'}) }}",
    "a generator's frame": "{{ (messages | map('upper')).gi_frame.f_globals }}",
}


def template(source: str) -> ChatTemplate:
    return ChatTemplate(byte_level(source, ("<s>", "<|im_end|>"), bos="<s>", eos="<|im_end|>"))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A bomb that goes off fails its test instead of the machine."""
    taken = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_does_not_go_off(
    kind: str, little_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftd.worker.allowance.LEAST_UNITS", 2**21)  # a sixteenth, as long a test
    chat = template(BOMBS[kind])
    began = time.thread_time()
    tracemalloc.start()
    try:
        with pytest.raises(RenderError):
            chat.read([USER])
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.thread_time() - began < 15
    assert most_bytes < 8 * 2**21, "what is not paid for is not made"


@pytest.mark.parametrize("kind", NOT_THERE)
def test_what_only_a_bomb_needs_is_not_there(kind: str, little_memory: None) -> None:
    with pytest.raises(RenderError):
        template(NOT_THERE[kind]).read([USER])


@pytest.mark.parametrize("kind", ESCAPES)
def test_there_is_no_way_out(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    messages = [dict(USER)]
    with pytest.raises(RenderError):
        template(ESCAPES[kind]).render(messages, None, prompt=False, thinking=False)
    assert messages == [USER]
    assert not any(tmp_path.iterdir())


def test_a_message_cannot_set_off_what_the_template_holds(little_memory: None) -> None:
    """A template that is good on two short messages, and doubles for each one that it sees."""
    bomb = template(
        "{% set ns = namespace(x='x') %}{% for m in messages %}{{ m.content }}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
    )
    assert bomb.read(CONVERSATION).text().endswith("Spain?")
    with pytest.raises(Unbounded):
        bomb.read(10 * CONVERSATION)


def test_what_people_write_is_no_template() -> None:
    text = "{{ messages }}{% for i in range(9) %}{% endfor %}"
    assert template("{{ messages[0].content }}").read([{**USER, "content": text}]).text() == text


def test_a_request_brings_no_template() -> None:
    """Not under its name at a face, and not past the faces either."""
    asked = {"model": "tiny", "messages": [USER], "chat_template": "{{ 1 }}"}
    with pytest.raises(FtdError, match="chat_template"):
        ChatBody.model_validate(asked).request()
    asked = {**asked, "chat_template_kwargs": {"chat_template": "{{ 1 }}"}}
    del asked["chat_template"]
    with pytest.raises(FtdError, match="chat_template_kwargs"):
        ChatBody.model_validate(asked).request()
    line = encode(Generate(id="x", prompt=Conversation(messages=(USER,))))
    assert decode_asked(line)
    for known in (b'"messages"', b'"id"'):
        with pytest.raises(WireError):
            decode_asked(line.replace(known, b'"chat_template":"{{ 1 }}",' + known, 1))


def test_a_complaint_is_cut(little_memory: None) -> None:
    with pytest.raises(RenderError) as refused:
        template("{{ raise_exception('x' * 100000) }}").read([USER])
    assert len(str(refused.value)) <= 500


def test_long_conversations_are_within_the_allowance() -> None:
    """A thousand turns, and one turn of a megabyte, for every family."""
    turns = [
        {"role": "user" if at % 2 == 0 else "assistant", "content": f"{at}: " + 20 * "lorem ipsum "}
        for at in range(1000)
    ]
    for family in FAMILIES:
        chat = ChatTemplate(FAMILIES[family].tokenizer)
        assert "998: lorem" in chat.read(turns[:-1]).text(), family
        assert len(chat.read([{"role": "user", "content": 2**20 * "x"}]).text()) > 2**20, family


@pytest.mark.parametrize("name", [pytest.param(name) for name in FAMILIES])
def test_a_familys_template_says_what_it_says_without_prices(name: str) -> None:
    _compare(FAMILIES[name].template())


def test_every_published_template_says_what_it_says_without_prices() -> None:
    for source in trl_templates().values():
        _compare(source)


def _compare(source: str) -> None:
    given = {
        "messages": CONVERSATION,
        "add_generation_prompt": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "date_string": "26 Jul 2024",
    }

    def rendered() -> str:
        compiled = chat_template_utils._cached_compile_jinja_template(source)
        try:
            text: str = compiled.render(**given)
        except Exception as error:  # noqa: BLE001 - a refusal is an answer too
            return repr(error)
        return text

    priced = rendered()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            chat_template_utils, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment
        )
        assert rendered() == priced
