"""Reads requests into questions that the batch can answer: the slow part, done beside it.

A long prompt takes a second to render and a large schema as long to compile. Threads do that,
several at a time; tokenizer and compiler let go of the interpreter meanwhile, so that the batch
turns on.
"""

from ftd.core.chat import Conversation, Generate, Text, Tokens
from ftd.core.errors import invalid
from ftd.core.toolcalls import MARKS, form_of
from ftd.worker.infer.grammar import Grammars
from ftd.worker.infer.model import Network
from ftd.worker.infer.render import Prompts, ends
from ftd.worker.infer.reply import Language, Question
from ftd.worker.infer.text import Vocabulary


class Desk:
    """Reads requests for one model. Threads may share it."""

    def __init__(self, network: Network) -> None:
        tokenizer, module = network.tokenizer, network.module
        self._size = network.vocabulary
        vocabulary = Vocabulary(tokenizer)
        self._prompts = Prompts(
            tokenizer, size=network.vocabulary, context_tokens=network.context_tokens
        )
        marks = {mark: vocabulary.id(mark) for mark in MARKS}
        special = {
            mark: token
            for mark, token in marks.items()
            if token is not None and vocabulary.special(token)
        }
        told = (
            getattr(module.generation_config, "eos_token_id", None),
            getattr(module.config.get_text_config(), "eos_token_id", None),
            tokenizer.eos_token_id,
        )
        self.language = Language(
            vocabulary=vocabulary,
            ends=frozenset(ends(self._prompts, vocabulary, *told)),
            marks={token: mark for mark, token in special.items()},
        )
        self._grammars = Grammars(
            tokenizer,
            size=network.vocabulary,
            ends=self.language.ends,
            form=form_of(self._prompts.source),
            marks=special,
        )

    def read(self, request: Generate) -> Question:
        """Raises FtdError, with OpenAI's param, for what cannot be answered."""
        if wrong := [at for at in request.sampling.logit_bias if not 0 <= at < self._size]:
            raise invalid(
                f"Invalid key in 'logit_bias': {wrong[0]}. This model's tokens are 0 to "
                f"{self._size - 1}.",
                param="logit_bias",
            )
        ids = self._prompts.ids(request.prompt)
        wanted = self._grammars.wanted(request.prompt, request.constraint)
        return Question(
            request=request,
            ids=ids,
            room=self._prompts.context_tokens - len(ids),
            echo=self._echo(request),
            matcher=None if wanted is None else self._grammars.compile(wanted),
            matcher_param="response_format" if wanted is None else wanted.param,
        )

    def _echo(self, request: Generate) -> str:
        match request.prompt:
            case Text(text=text) if request.echo:
                return text
            case Tokens(ids=ids) if request.echo:
                return self.language.vocabulary.decode(ids)
            case Conversation():
                return ""
        return ""
