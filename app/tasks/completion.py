"""Generated texts, whole and in pieces, and which of several is the best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.engine.protocol import FinishReason, TokenLogprobs
from app.tasks.detokenizer import Detokenizer
from app.tasks.sampling import GenerateOptions
from model.tokenization import Tokenizer


@dataclass(slots=True)
class Piece:
    """News of one sequence; `index` counts prompts × n. The last piece has the finish reason, whether it was a stop
    string, and what was asked about the prompt's tokens, from its second one on."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    is_stopped: bool = False


@dataclass(slots=True)
class Completion:
    """A whole text, whether a stop string ended it, and what was asked about its prompt's tokens, from the second one
    on."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    is_stopped: bool = False


def likeliest(completions: list[Completion], options: GenerateOptions) -> list[Completion]:
    """Of each prompt's `best_of` texts the `n` with the highest mean log-probability, best first."""
    if options.best_of == options.n:
        return completions
    kept: list[Completion] = []
    for start in range(0, len(completions), options.best_of):
        one_prompt = completions[start : start + options.best_of]
        kept += ranked(one_prompt)[: options.n]
    return [replace(one, logprobs=None) for one in kept] if options.hides_logprobs else kept


def ranked(completions: Sequence[Completion]) -> list[Completion]:
    """Texts of one prompt, whose log-probabilities were asked for, the likeliest first."""
    return sorted(completions, key=_mean_logprob, reverse=True)


def _mean_logprob(completion: Completion) -> float:
    """Nothing at all comes last: nobody asks for the best of several to get that."""
    logprobs = [entry.logprob for entry in completion.logprobs or ()]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf


def told_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]
) -> list[dict[str, Any]]:
    """Per token its text (special tokens as they are spelled), id and log-probability, and those of the likeliest in
    its place."""

    def told(token_id: int, logprob: float) -> dict[str, Any]:
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        return {"token": text, "id": token_id, "logprob": logprob}

    return [
        {**told(token_id, entry.logprob), "top": [told(top_id, logprob) for top_id, logprob in entry.top]}
        for token_id, entry in zip(ids, logprobs, strict=True)
    ]


def token_texts(tokenizer: Tokenizer, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """What each token adds to the text that goes on from `before`; one of several bytes' tokens has the character."""
    reader = Detokenizer(tokenizer, before=before)
    texts = [reader.add([token_id]) for token_id in ids]
    if texts:
        texts[-1] += reader.finish()
    return texts
