"""Translation, summaries and answers by generative checkpoints that are told in words what is wanted."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, ClassVar

from app.errors import InvalidRequest
from app.tasks.base import Engine, TaskModel, Usage
from app.tasks.completion import Completion
from app.tasks.generate import DEFAULT_MAX_TOKENS, Generate
from app.tasks.language_names import prompted_name
from app.tasks.languages import Languages, Way
from app.tasks.prompting import Prompter, generates, of_its_own, without_draws
from app.tasks.prompts import NO_ANSWER
from app.tasks.qa import QA, Answer, QAOptions, Question
from app.tasks.sampling import MAX_SEQUENCES, GenerateOptions
from app.tasks.sentences import has_letters, trim
from app.tasks.summarize import Summarize
from app.tasks.translate import Translate, TranslateOptions
from model.config import TransformerConfig

_OWN_LANGUAGE = "the language it is written in"
_AROUND = " \t\r\n.\"'“”‘’«»"
"""What models put around an answer that stands in the text without it."""


class PromptedTranslate(Translate):
    """The whole text at once, white space around it kept: a sentence alone says less than among others."""

    def __init__(self, model: TaskModel, engine: Engine, pool: Executor) -> None:
        super().__init__(without_draws(model), engine, pool)
        self._prompter = Prompter(self.model, engine, pool, "translate", cut="text", param="text")

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """See `generates`."""
        return generates(config)

    def options(self, values: Mapping[str, Any], temperature: float) -> GenerateOptions:
        """See `of_its_own`."""
        return of_its_own(super().options(values, temperature))

    def find_languages(self) -> Languages:
        """Any that has a name."""
        return _Named()

    async def pieces(
        self, texts: Sequence[str], options: TranslateOptions, way: Way
    ) -> tuple[list[list[str]], dict[str, list[int]]]:
        """Nothing but the white space around a text is cut off; prompts name the languages in English."""
        cut = [trim(text) for text in texts]
        wanted = list(dict.fromkeys(piece for pieces in cut for piece in pieces if has_letters(piece)))
        source = _OWN_LANGUAGE if options.source is None else prompted_name(options.source)
        target = prompted_name(options.target)
        assert source is not None, "way() saw it"
        assert target is not None, "way() saw it"
        asked = [{"text": text, "source": source, "target": target} for text in wanted]
        if options.truncate:
            room = self.model.max_length
            if self.model.config.kind == "decoder":
                room = self.model.room - (options.generate.max_tokens or self.model.room // 2)
            asked = [await self._prompter.shorten(places, room) for places in asked]
        rows = await self._prompter.rows(asked)
        return cut, dict(zip(wanted, rows, strict=True))

    def max_tokens(self, prompt_tokens: int, wanted: int | None, is_forced: bool) -> int:
        """Left out, three times the prompt and 32, or the room that is left."""
        if wanted is None and self.model.config.kind == "decoder":
            wanted = max(1, min(3 * prompt_tokens + 32, self.model.room - prompt_tokens))
        return super().max_tokens(prompt_tokens, wanted, is_forced)


class _Named:
    """Languages by their English names; which of them a model knows is not told anywhere."""

    def way(self, source: str | None, target: str) -> Way:
        """Raises InvalidRequest for a code without a name."""
        for param, code in (("target", target), ("source", source)):
            if code is not None and prompted_name(code) is None:
                raise InvalidRequest(
                    f"{code[:20]!r} is no language's code, such as de, or English name", param
                )
        return Way()

    def told(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class PromptedSummarize(Summarize):
    """As the prompt asks for it; a text that may be cut is cut so that 256 tokens, or those asked for, are left."""

    def __init__(self, model: TaskModel, engine: Engine, pool: Executor) -> None:
        super().__init__(model, engine, pool)
        self._prompter = Prompter(self.model, engine, pool, "summarize", cut="text", param="text")

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """See `generates`."""
        return generates(config)

    def options(self, values: Mapping[str, Any], temperature: float) -> GenerateOptions:
        """See `of_its_own`."""
        return of_its_own(super().options(values, temperature))

    def as_published(self) -> TaskModel:
        """What is published for `summarize:` is not for this prompt."""
        return without_draws(self.model)

    async def source_ids(
        self, texts: Sequence[str], options: GenerateOptions, truncate: bool
    ) -> list[list[int]]:
        """Prompts, shortened in their texts."""
        asked = [{"text": text} for text in texts]
        if truncate:
            room = self.model.max_length
            if self.model.config.kind == "decoder":
                room = self.model.room - (options.max_tokens or DEFAULT_MAX_TOKENS)
            asked = [await self._prompter.shorten(places, room) for places in asked]
        return await self._prompter.rows(asked)


class PromptedQA(QA):
    """The model's own words, looked for in the context; several answers are the best of as many beams."""

    def __init__(self, model: TaskModel, engine: Engine, pool: Executor) -> None:
        super().__init__(without_draws(model), engine, pool)
        self._writer = _Writer(self.model, engine, pool)
        self._prompters = {
            name: Prompter(self.model, engine, pool, name, cut="context", param="context")
            for name in ("qa", "qa_or_none")
        }

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """See `generates`."""
        return generates(config)

    async def run(
        self, questions: Sequence[Question], options: QAOptions, usage: Usage
    ) -> list[list[Answer]]:
        """See `QA`. A score is the geometric mean of the probabilities of the answer's tokens."""
        if options.top_k > MAX_SEQUENCES:
            raise InvalidRequest(f"must not be over {MAX_SEQUENCES} for a generative model", "top_k")
        prompter = self._prompters["qa_or_none" if options.allow_no_answer else "qa"]
        rows = await prompter.rows(
            [{"question": q.question, "context": q.context, "no_answer": NO_ANSWER} for q in questions]
        )
        beams = {"num_beams": options.top_k, "n": options.top_k} if options.top_k > 1 else {}
        values = {"max_tokens": options.max_answer_tokens, "temperature": 0.0, "logprobs": 0, **beams}
        asked = self._writer.options(values, temperature=0.0)
        done = await self._writer.run(self._writer.plan(rows, asked), asked, usage)
        groups = [done[i : i + asked.n] for i in range(0, len(done), asked.n)]
        return [
            _distinct([_read(one, item.context, options.allow_no_answer) for one in group])
            for item, group in zip(questions, groups, strict=True)
        ]


class _Writer(Generate):
    """Writes answers; what is too long is the context."""

    param: ClassVar[str] = "context"

    def options(self, values: Mapping[str, Any], temperature: float) -> GenerateOptions:
        """See `of_its_own`."""
        return of_its_own(super().options(values, temperature))


def _read(completion: Completion, context: str, allow_no_answer: bool) -> Answer:
    """The answer, as the context has it where it stands there."""
    reply = completion.text.strip()
    logprobs = [entry.logprob for entry in completion.logprobs or ()]
    score = math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0
    bare = reply.strip(_AROUND)
    if allow_no_answer and bare.casefold() in ("", NO_ANSWER):
        return Answer("", score, 0, 0)
    for text in (reply, bare):
        start = context.find(text) if text else -1
        if start >= 0:
            return Answer(text, score, start, start + len(text))
    return Answer(reply, score, None, None)


def _distinct(answers: list[Answer]) -> list[Answer]:
    """Best first, and of those that read alike the best; beams differ in tokens."""
    best: dict[str, Answer] = {}
    for answer in answers:
        if answer.answer not in best or best[answer.answer].score < answer.score:
            best[answer.answer] = answer
    return sorted(best.values(), key=lambda answer: -answer.score)
