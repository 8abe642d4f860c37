"""Generated texts in the shape of Hugging Face's clients: of `transformers` pipelines, and of
text-generation-inference with its details and stream."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from app.api.call import Call
from app.api.huggingface_generation_schemas import TextGenerationParameters
from app.api.huggingface_schemas import Summarization, TextGeneration, TextToText, Translation
from app.api.schemas import as_list
from app.api.streaming import Events, EventStream, event
from app.errors import InvalidRequest
from app.tasks.base import cut_ids
from app.tasks.completion import Completion, Piece, ranked, token_texts
from app.tasks.generate import Generate
from app.tasks.sampling import GenerateOptions
from app.tasks.spaces import clean_up
from app.tasks.summarize import Summarize
from app.tasks.translate import Translate, TranslateOptions


async def translate(task: Translate, body: Translation, call: Call) -> Any:
    """`[{"translation_text"}]`. A text is not cut into sentences here."""
    wanted = body.parameters
    asked = wanted.generate_parameters
    options = TranslateOptions(
        task.options(asked.values(), temperature=asked.default_temperature),
        wanted.tgt_lang if wanted.tgt_lang is not None else task.only_target(wanted.src_lang),
        wanted.src_lang,
        split_sentences=False,
        forces_token=asked.forced_bos_token_id is not None,
        truncate=wanted.truncates,
    )
    found = await task.translate(as_list(body.inputs), options, call.usage)
    return _texts([[one.text for one in texts] for texts in found], body, "translation_text")


async def summarize(task: Summarize, body: Summarization, call: Call) -> Any:
    """`[{"summary_text"}]`."""
    wanted = body.parameters
    asked = wanted.generate_parameters
    options = task.options(asked.values(), temperature=asked.default_temperature)
    texts = as_list(body.inputs)
    found = await task.summarize(texts, options, call.usage, truncate=wanted.truncates)
    return _texts(found, body, "summary_text")


async def rewrite(task: Generate, body: TextToText, call: Call) -> Any:
    """`[{"generated_text"}]`."""
    wanted = body.parameters
    asked = wanted.generate_parameters
    options = task.options(asked.values(), temperature=asked.default_temperature)
    rows = await task.prompt_ids(as_list(body.inputs))
    if wanted.truncates:
        rows = [cut_ids(ids, task.model.special_ids, task.model.max_length) for ids in rows]
    done = await task.run(task.plan(rows, options), options, call.usage)
    return _texts(_grouped([one.text for one in done], options.n), body, "generated_text")


def _texts(found: list[list[str]], body: Summarization | Translation | TextToText, key: str) -> Any:
    """As the pipelines have it: the texts of all inputs in one list, and lists in it only where some have several."""
    cleans = body.parameters.clean_up_tokenization_spaces is True
    told = [[{key: clean_up(text) if cleans else text} for text in texts] for texts in found]
    if isinstance(body.inputs, str):
        return told[0]
    return [texts[0] for texts in told] if all(len(texts) == 1 for texts in told) else told


def _grouped(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


async def generate_text(task: Generate, body: TextGeneration, call: Call) -> Any:
    """`[{"generated_text", "details"?}]`, or a stream of one event a token."""
    wanted = body.parameters
    answer = _Answer(task, wanted, call)
    texts = as_list(body.inputs)
    if wanted.return_full_text and task.model.config.kind != "decoder":
        raise InvalidRequest("an encoder-decoder's text does not go on from its prompt", "return_full_text")
    options = answer.options(is_stream=body.stream is True)
    rows = await task.prompt_ids(texts)
    if wanted.truncate is not None:
        rows = [cut_ids(ids, task.model.special_ids, wanted.truncate, "left") for ids in rows]
    requests = task.plan(rows, options)
    if body.stream:
        if isinstance(body.inputs, list):
            raise InvalidRequest("a stream takes one text", "inputs")
        if wanted.decoder_input_details:
            raise InvalidRequest("a stream tells nothing of the prompt", "decoder_input_details")
        pieces = task.stream(requests, options, call.usage)
        return await EventStream.begin(answer.events(texts[0], rows[0], pieces), call)
    done = _grouped(await task.run(requests, options, call.usage), options.n)
    told = [[answer.whole(text, row, found)] for text, row, found in zip(texts, rows, done, strict=True)]
    return told if isinstance(body.inputs, list) else told[0]


class _Answer:
    """One request's texts, with as much about them as it asked for."""

    def __init__(self, task: Generate, wanted: TextGenerationParameters, call: Call) -> None:
        self._task, self._wanted, self._call = task, wanted, call
        self._tells = wanted.details is True or wanted.decoder_input_details is True
        self._is_full = wanted.return_full_text is True

    def options(self, *, is_stream: bool) -> GenerateOptions:
        """With the log-probabilities that details and streams tell, and all of `best_of` texts for the details."""
        values = self._wanted.values() | {"stream": is_stream}
        if self._tells or is_stream:
            values["logprobs"] = self._wanted.top_n_tokens or 0
        if self._wanted.decoder_input_details:
            values["prompt_logprobs"] = 0
        options = self._task.options(values, temperature=self._wanted.default_temperature)
        return replace(options, n=options.best_of) if self._tells else options

    def whole(self, prompt: str, row: Sequence[int], found: Sequence[Completion]) -> dict[str, Any]:
        """The likeliest of the texts that were made for a prompt, and in its details the others."""
        best, *others = ranked(found) if len(found) > 1 else found
        told: dict[str, Any] = {"generated_text": self._text(prompt, best.text)}
        if self._tells:
            told["details"] = self._details(row, best)
            if others:
                told["details"]["best_of_sequences"] = [
                    {"generated_text": self._text(prompt, one.text), **self._details(row, one)}
                    for one in others
                ]
        return told

    async def events(self, prompt: str, row: Sequence[int], pieces: AsyncGenerator[Piece]) -> Events:
        """One a token. Its text is what it adds, so that all of them make the whole; the last event has that, too."""
        text, count = "", 0
        async with aclosing(pieces):
            async for piece in pieces:
                text += piece.text
                texts = [*([""] * (len(piece.token_ids) - 1)), piece.text] if piece.token_ids else []
                tokens = self._tokens(piece.token_ids, piece, texts)
                if piece.finish_reason is not None and not tokens:
                    tokens = [self._end_token(piece.text)]
                for i, token in enumerate(tokens, 1):
                    count += 1
                    told: dict[str, Any] = {"index": count, "token": token}
                    if self._wanted.top_n_tokens:
                        told["top_tokens"] = token.pop("top", [])
                    is_last = piece.finish_reason is not None and i == len(tokens)
                    told["generated_text"] = self._text(prompt, text) if is_last else None
                    told["details"] = self._ending(row, piece) if is_last and self._tells else None
                    yield event(told)

    def _text(self, prompt: str, text: str) -> str:
        return prompt + text if self._is_full else text

    def _ending(self, row: Sequence[int], piece: Piece) -> dict[str, Any]:
        return {
            "finish_reason": _reason(piece),
            "generated_tokens": self._call.usage.completion_tokens,
            "input_length": len(row),
            "seed": self._wanted.seed,
        }

    def _details(self, row: Sequence[int], one: Completion) -> dict[str, Any]:
        before = row if self._task.model.config.kind == "decoder" else ()
        tokens = self._tokens(
            one.token_ids, one, token_texts(self._task.model.tokenizer, one.token_ids, before)
        )
        told: dict[str, Any] = {
            "finish_reason": _reason(one),
            "generated_tokens": len(one.token_ids),
            "seed": self._wanted.seed,
            "prefill": self._prefill(row, one),
            "tokens": tokens,
        }
        if self._wanted.top_n_tokens:
            told["top_tokens"] = [token.pop("top") for token in tokens]
        return told

    def _prefill(self, row: Sequence[int], one: Completion) -> list[dict[str, Any]]:
        """The prompt's tokens, where they were asked for; nothing says how likely the first one is."""
        if one.prompt_logprobs is None:
            return []
        logprobs = [None, *(entry.logprob for entry in one.prompt_logprobs)]
        texts = self._spelled(row, token_texts(self._task.model.tokenizer, row))
        return [
            {"id": token_id, "text": text, "logprob": logprob}
            for token_id, text, logprob in zip(row, texts, logprobs, strict=True)
        ]

    def _tokens(
        self, ids: Sequence[int], told: Completion | Piece, texts: Sequence[str]
    ) -> list[dict[str, Any]]:
        """With `top` where the likeliest were asked for."""
        special = self._task.model.special_ids
        tokens: list[dict[str, Any]] = []
        for token_id, text, entry in zip(ids, self._spelled(ids, texts), told.logprobs or (), strict=True):
            token: dict[str, Any] = {
                "id": token_id,
                "text": text,
                "logprob": entry.logprob,
                "special": token_id in special,
            }
            if self._wanted.top_n_tokens:
                (one,) = self._task.told_logprobs([token_id], [entry])
                token["top"] = [
                    {
                        "id": top["id"],
                        "text": top["token"],
                        "logprob": top["logprob"],
                        "special": top["id"] in special,
                    }
                    for top in one["top"]
                ]
            tokens.append(token)
        return tokens

    def _spelled(self, ids: Sequence[int], texts: Sequence[str]) -> list[str]:
        """Special tokens add nothing to a text; they are told as the vocabulary spells them."""
        model = self._task.model
        return [
            text or (model.tokenizer.id_to_token(i) or "") if i in model.special_ids else text
            for i, text in zip(ids, texts, strict=True)
        ]

    def _end_token(self, text: str) -> dict[str, Any]:
        """What stands for the end in a stream whose last token came before: nothing told then that it was the last."""
        ends = self._task.model.config.eos_token_ids
        return {"id": ends[0] if ends else None, "text": text, "logprob": None, "special": True}


def _reason(one: Completion | Piece) -> str:
    if one.finish_reason == "length":
        return "length"
    return "stop_sequence" if one.is_stopped else "eos_token"
