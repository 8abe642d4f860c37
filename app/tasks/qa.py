"""Extractive question answering: where in the context the answer stands."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from app.engine.protocol import Encoded, EncodeRequest
from app.errors import InvalidRequest
from app.tasks.base import Task, Usage, to_array
from app.tasks.qa_windows import Span, Window, best_spans, context_bounds, cut_windows, word_offsets
from model.config import TransformerConfig
from model.tokenization import Encoding

MAX_WINDOW = 384
"""Tokens of a window; what span models are trained on."""
DEFAULT_DOC_STRIDE = 128
DEFAULT_MAX_ANSWER_TOKENS = 30
_SCORING_COST = 100
"""Scoring a window token takes about as long as tokenizing so many characters divided by ten; see `Task.offload`."""


@dataclass(frozen=True)
class Question:
    """One question and the text that may answer it."""

    question: str
    context: str


@dataclass(frozen=True)
class Answer:
    """`context[start:end] == answer`; all three empty where the context holds no answer.

    An answer that a generative model gave in words of its own stands nowhere: `start` and `end` are None.
    """

    answer: str
    score: float
    start: int | None
    end: int | None


@dataclass(frozen=True)
class QAOptions:
    """How answers are looked for; `doc_stride` tokens are shared by neighbouring windows of a long context.

    `max_question_tokens` cuts the question, `max_window` bounds a window's tokens. With `whole_words` an answer begins
    and ends with the words that its first and last token are of.
    """

    top_k: int = 1
    max_answer_tokens: int = DEFAULT_MAX_ANSWER_TOKENS
    doc_stride: int = DEFAULT_DOC_STRIDE
    allow_no_answer: bool = False
    max_question_tokens: int | None = None
    max_window: int = MAX_WINDOW
    whole_words: bool = False


class QA(Task):
    """What every way of doing it promises."""

    name: ClassVar[str] = "qa"

    @abstractmethod
    async def run(
        self, questions: Sequence[Question], options: QAOptions, usage: Usage
    ) -> list[list[Answer]]:
        """The best answers to each question. Raises InvalidRequest for one that leaves no room for its context."""


class SpanQA(QA):
    """One encode per window of a context; the spans of all windows are ranked together."""

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """A span head."""
        return config.kind == "encoder" and config.head == "span"

    async def run(
        self, questions: Sequence[Question], options: QAOptions, usage: Usage
    ) -> list[list[Answer]]:
        """See `QA`."""
        if options.max_question_tokens is not None:
            questions = await self._shortened(questions, options.max_question_tokens)
        pairs = await self.tokenize([(item.question, item.context) for item in questions])
        size = sum(len(pair.ids) for pair in pairs)
        windows = await self.offload(size, lambda: [self._cut(pair, options) for pair in pairs])
        requests = [
            EncodeRequest(model=self.model.address, ids=window.ids, type_ids=window.type_ids, output="span")
            for group in windows
            for window in group
        ]
        answers = iter(await self.encode(requests, usage))
        results = []
        for item, pair, group in zip(questions, pairs, windows, strict=True):
            scores = [next(answers) for _ in group]
            spans = await self._rank(pair, group, scores, options)
            results.append([Answer(item.context[s.start : s.end], s.score, s.start, s.end) for s in spans])
        return results

    async def _shortened(self, questions: Sequence[Question], most: int) -> list[Question]:
        """The first `most` tokens of each question."""
        texts = [item.question for item in questions]
        encode = self.model.tokenizer.encode_batch
        cut = await self.offload(sum(map(len, texts)), lambda: encode(texts, add_special_tokens=False))
        return [
            item
            if len(one.ids) <= most
            else Question(item.question[: one.offsets[most - 1][1]], item.context)
            for item, one in zip(questions, cut, strict=True)
        ]

    def _cut(self, pair: Encoding, options: QAOptions) -> list[Window]:
        first, last = context_bounds(pair)
        room = min(options.max_window, self.model.max_length) - (len(pair.ids) - (last - first))
        if room < 1:
            raise InvalidRequest("the question leaves no room for its context", "question", "too_long")
        if room <= options.doc_stride and last - first > room:
            if options.doc_stride != DEFAULT_DOC_STRIDE:
                raise InvalidRequest(f"must be below {room} beside this question", "doc_stride")
            return cut_windows(pair, room, room // 2)
        return cut_windows(pair, room, min(options.doc_stride, room - 1))

    async def _rank(
        self, pair: Encoding, windows: list[Window], answers: list[Encoded], options: QAOptions
    ) -> list[Span]:
        first, last = context_bounds(pair)
        offsets = word_offsets(pair) if options.whole_words else pair.offsets
        size = sum(window.count for window in windows)
        no_answer = self.model.config.no_answer_value if options.allow_no_answer else None
        return await self.offload(
            size * options.max_answer_tokens // _SCORING_COST,
            lambda: best_spans(
                [to_array(answer) for answer in answers],
                windows,
                offsets[first:last],
                top_k=options.top_k,
                max_answer_tokens=options.max_answer_tokens,
                no_answer=no_answer,
            ),
        )
