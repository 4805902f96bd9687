"""Grades for answers: by the reference's very words, by likeness to them, or by a judge."""

import json
import re
from collections import Counter
from collections.abc import Callable

from ftctl.answers import Answer, ask, chat_request, message
from ftctl.client import Client
from ftctl.failure import Failure
from ftctl.prompts import Prompt
from ftd.v1 import chat_pb2

EXACT = "exact_match"
SIMILAR = "text_similarity"

# Grades an answer to a prompt. Raises Failure when it cannot.
Grade = Callable[[Prompt, Answer], float]

# A word is a run of letters and digits; in scripts without spaces each character is one.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|"
    r"[^\W_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+"
)

RUBRIC = """Grade an answer to a request.

10: correct and complete, as good as the best answer one could give
7: correct, with small flaws
4: partly correct, or much is missing
1: wrong, empty, or no answer to the request

{request}

{reference}Answer to grade:
<<<
{answer}
>>>

Judge only what the answer says, not how long it is. Reply with JSON: {{"score": N}}, where N is a
whole number from 1 to 10.
"""
_SCORES = list(range(1, 11))
_FORM = json.dumps(
    {
        "type": "json_schema",
        "json_schema": {
            "name": "grade",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {"score": {"enum": _SCORES}},
                "required": ["score"],
                "additionalProperties": False,
            },
        },
    }
)
JUDGE_TOKENS = 64  # of a verdict
JUDGED_CHARACTERS = 8000  # of each text that a judge reads


def needs_reference(grader: str) -> bool:
    """Whether there is nothing to grade without a reference; a judge can do without."""
    return grader in (EXACT, SIMILAR)


def grade_by(grader: str, client: Client) -> Grade:
    """exact_match, text_similarity, or the name of the model that judges."""
    match grader:
        case "exact_match":
            return lambda prompt, answer: exact_match(answer.words, prompt.reference or "")
        case "text_similarity":
            return lambda prompt, answer: text_similarity(answer.words, prompt.reference or "")
        case _:
            return lambda prompt, answer: judged(client, grader, prompt, answer)


def exact_match(answer: str, reference: str) -> float:
    """1 for the same text, but for white space around it; else 0."""
    return float(answer.strip() == reference.strip())


def text_similarity(answer: str, reference: str) -> float:
    """F1 of the words that both have, 0 to 1, whatever their order and case.

    The measure of SQuAD (Rajpurkar et al. 2016) without its list of articles: the harmonic mean of
    the part of the answer's words that the reference has, and the part of the reference's that the
    answer has, each word counted as often as it stands there.
    """
    ours, theirs = _words(answer), _words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total())


def judged(client: Client, judge: str, prompt: Prompt, answer: Answer) -> float:
    """1 to 10, by a model that is shown the request, the reference and the answer, and nothing
    about who gave it. Raises Failure for a verdict that is no score."""
    reference = ""
    if prompt.reference is not None:
        reference = f"Reference answer:\n<<<\n{_cut(prompt.reference)}\n>>>\n\n"
    text = RUBRIC.format(
        request=f"Request:\n<<<\n{_cut(prompt.asked)}\n>>>",
        reference=reference,
        answer=_cut(answer.words),
    )
    sampling = chat_pb2.Sampling(temperature=0, max_tokens=JUDGE_TOKENS)
    request = chat_request(judge, [message("user", text)], sampling, response_format_json=_FORM)
    verdict = ask(client, request).text
    try:
        score = json.loads(verdict)["score"]
    except (ValueError, TypeError, KeyError):
        score = None
    if score not in _SCORES:
        raise Failure(f"{judge} gave no score but {verdict[:80]!r}")
    return float(score)


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.casefold()))


def _cut(text: str) -> str:
    return text if len(text) <= JUDGED_CHARACTERS else f"{text[:JUDGED_CHARACTERS]} [...]"
