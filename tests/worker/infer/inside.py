"""A worker's inside without its socket: desk, replies and batch in one thread, for tests."""

from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ftd.core.chat import Generate, Refused
from ftd.core.errors import FtdError
from ftd.core.spec import ServeSpec
from ftd.worker.infer.batch import Batch
from ftd.worker.infer.desk import Desk
from ftd.worker.infer.model import Network, prepare
from ftd.worker.infer.reply import Reply
from tests.tiny import byte_tokenizer, tiny_config
from tests.worker.infer.client import Told


def spec(**changes: Any) -> ServeSpec:
    settings: dict[str, Any] = {
        "model_name": "tiny",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "context_tokens": 512,
        "rows": 8,
        "queue": 32,
        "adapters": 2,
        "cache_tokens": 4096,
    }
    return ServeSpec(**(settings | changes))


def tiny_network(tokenizer: PreTrainedTokenizerFast | None = None, **config: Any) -> Network:
    """A random model of two layers, whose tokens are bytes unless a tokenizer is given."""
    torch.manual_seed(7)
    tokenizer = tokenizer or byte_tokenizer()
    module = LlamaForCausalLM(tiny_config(vocab_size=len(tokenizer), **config))
    with torch.inference_mode():
        return prepare(module.eval(), tokenizer, 512)


class Inside:
    """Asks as a server does, and waits for the answers."""

    def __init__(self, network: Network, **limits: Any) -> None:
        self.network = network
        self.desk = Desk(network)
        self.batch = Batch(network, spec(**limits))
        self.replies: dict[str, Reply] = {}
        self.told: dict[str, Told] = {}
        self.done: list[str] = []

    def begin(self, request: Generate) -> Told:
        """Let a request join; `turn` answers it."""
        told = self.told[request.id] = Told()
        try:
            question = self.desk.read(request)
        except FtdError as error:
            told.last = Refused(
                id=request.id, message=error.message, param=error.param, code=error.code
            )
            return told
        reply = Reply(question, self.desk.language, told.hear, lambda: self.done.append(request.id))
        self.replies[request.id] = reply
        self.batch.add(reply.rows)
        return told

    def ask(self, *requests: Generate) -> list[Told]:
        told = [self.begin(request) for request in requests]
        while self.batch.turn():
            pass
        assert all(each.last is not None for each in told)
        return told

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.network.tokenizer.encode(text, add_special_tokens=False)
        return ids
