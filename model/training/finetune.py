"""Supervised objectives of encoders: classification, extractive answers."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model.tokenization import Tokenizer
from model.training.loop import Batch
from model.training.metrics import accuracy, macro_f1, squad_scores
from model.training.padded import on_device, pad, pad_mask
from model.training.spans import FoundSpan, PairTemplate, Question, Window, best_span
from model.transformer import OWN, Transformer


class Classification:
    """One label a text."""

    def __init__(
        self,
        examples: list[tuple[list[int], int]],
        validation: list[tuple[list[int], int]],
        *,
        pad_id: int = 0,
        label_smoothing: float = 0.0,
        head: str = OWN,
        adapter: str | None = None,
    ) -> None:
        """Examples are (ids with special tokens, label number)."""
        self._examples, self._validation, self._pad = examples, validation, pad_id
        self._label_smoothing, self._head, self._adapter = label_smoothing, head, adapter
        self.lengths: list[tuple[int, ...]] = [(len(ids),) for ids, _ in examples]

    def collate(self, indices: list[int], seed: int) -> Batch:
        """See `Objective`."""
        rows = [self._examples[index][0] for index in indices]
        labels = torch.tensor([self._examples[index][1] for index in indices])
        return {"ids": pad(rows, self._pad), "mask": pad_mask(rows), "labels": labels}

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, int]:
        """See `Objective`."""
        logits = self._logits(model, batch["ids"], batch["mask"])
        loss = functional.cross_entropy(logits, batch["labels"], label_smoothing=self._label_smoothing)
        return loss, len(logits)

    def validate(self, model: Transformer) -> dict[str, float]:
        """Accuracy, macro-F1 and loss on the development examples."""
        if not self._validation:
            return {}
        logits, expected = self.development(model)
        predicted = logits.argmax(-1).tolist()
        loss = functional.cross_entropy(logits, torch.tensor(expected))
        return {
            "accuracy": accuracy(predicted, expected),
            "macro_f1": macro_f1(predicted, expected),
            "loss": float(loss),
        }

    def development(self, model: Transformer) -> tuple[Tensor, list[int]]:
        """[num_rows, num_labels] logits of the development examples, and their labels."""
        logits = self.logits(model, [ids for ids, _ in self._validation])
        return logits, [label for _, label in self._validation]

    @torch.no_grad()
    def logits(self, model: Transformer, rows: Sequence[list[int]], batch_size: int = 64) -> Tensor:
        """[num_rows, num_labels] of texts as ids, in their order, on the CPU."""
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        parts = []
        for start in range(0, len(order), batch_size):
            some = [rows[index] for index in order[start : start + batch_size]]
            batch = on_device({"ids": pad(some, self._pad), "mask": pad_mask(some)}, model)
            parts.append(self._logits(model, batch["ids"], batch["mask"]).cpu())
        places = torch.tensor(order).argsort()
        return torch.cat(parts)[places]

    def _logits(self, model: Transformer, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = model.encode_padded(ids, mask, adapter=self._adapter)
        return model.classify(model.pool(hidden, mask, self._head), self._head).float()


class ExtractiveAnswers:
    """Where in a text the answer begins and ends (Devlin et al. 2019, section 4.2)."""

    def __init__(
        self,
        questions: list[Question],
        validation: list[Question],
        tokenizer: Tokenizer,
        *,
        max_length: int,
        stride: int = 128,
        negatives: float = 0.0,
        template: PairTemplate,
        pad_id: int = 0,
        head: str = OWN,
        adapter: str | None = None,
        seed: int = 0,
    ) -> None:
        """Training takes one window a question, cut at random around its answer, or for a share of
        `negatives` one that lacks it, so that windows of a long text can be compared; answering takes as
        many as the text needs, `stride` tokens shared between neighbours, of short windows half."""
        self._tokenizer, self._template, self._pad = tokenizer, template, pad_id
        self._max_length, self._stride = max_length, stride
        self._head, self._adapter, self._validation = head, adapter, validation
        self._texts: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        draw = random.Random(seed)
        self._windows: list[Window] = []
        for question in questions:
            window = self._training_window(question, draw)
            if draw.random() < negatives:
                window = self._unanswerable(question, draw.choice(questions).context, draw)
            if window is not None:
                self._windows.append(window)
        self.lengths: list[tuple[int, ...]] = [(len(window.ids),) for window in self._windows]

    def collate(self, indices: list[int], seed: int) -> Batch:
        """See `Objective`."""
        chosen = [self._windows[index] for index in indices]
        batch = self._batch(chosen)
        batch["starts"] = torch.tensor([window.start for window in chosen])
        batch["ends"] = torch.tensor([window.end for window in chosen])
        return batch

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, int]:
        """The mean of the start's and the end's cross entropy."""
        logits = self._logits(model, batch)
        start = functional.cross_entropy(logits[..., 0], batch["starts"])
        return (start + functional.cross_entropy(logits[..., 1], batch["ends"])) / 2, len(logits)

    def validate(self, model: Transformer) -> dict[str, float]:
        """SQuAD's exact match and F1 on the development questions."""
        if not self._validation:
            return {}
        predicted = self.answer(model, self._validation)
        return squad_scores(predicted, [list(question.answers) for question in self._validation])

    def answer(self, model: Transformer, questions: Sequence[Question]) -> list[str]:
        """The best answer to each question; see `find`."""
        return [found.text for found in self.find(model, questions)]

    @torch.no_grad()
    def find(
        self,
        model: Transformer,
        questions: Sequence[Question],
        *,
        max_length: int = 384,
        batch_tokens: int = 6144,
    ) -> list[FoundSpan]:
        """The best answer to each question: the span of at most 30 tokens with the highest sum of start and
        end score over all windows, each measured against its window's score for having no answer."""
        windows = [
            (number, window)
            for number, question in enumerate(questions)
            for window in self._all_windows(question, min(max_length, model.config.max_positions))
        ]
        windows.sort(key=lambda pair: len(pair[1].ids))
        best = [FoundSpan("", float("-inf"), float("-inf"))] * len(questions)
        at = 0
        while at < len(windows):
            size = 1
            while at + size < len(windows) and len(windows[at + size][1].ids) * (size + 1) <= batch_tokens:
                size += 1
            part = windows[at : at + size]
            at += size
            batch = on_device(self._batch([window for _, window in part]), model)
            logits = self._logits(model, batch).cpu()
            for (number, window), scores in zip(part, logits, strict=True):
                best[number] = best[number].or_better(best_span(scores, window, questions[number].context))
        return best

    def _logits(self, model: Transformer, batch: Batch) -> Tensor:
        hidden = model.encode_padded(batch["ids"], batch["mask"], batch["types"], self._adapter)
        scores = model.span(hidden, self._head).float()
        return scores.masked_fill(~batch["answerable"][..., None], -1e9)

    def _batch(self, windows: Sequence[Window]) -> Batch:
        rows = [window.ids for window in windows]
        # The first token stands for "no answer here", so it may be chosen too.
        inside = [[1, *(place is not None for place in window.offsets[1:])] for window in windows]
        return {
            "ids": pad(rows, self._pad),
            "mask": pad_mask(rows),
            "types": pad([window.types for window in windows], 0),
            "answerable": pad(inside, 0).bool(),
        }

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if text not in self._texts:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
            self._texts[text] = list(encoding.ids), list(encoding.offsets)
        return self._texts[text]

    def _window(self, question: list[int], context: str, first: int, room: int) -> Window:
        ids, offsets = self._encode(context)
        piece = slice(first, first + room)
        form = self._template
        head, tail = [*form.before, *question, *form.between], form.after
        return Window(
            ids=[*head, *ids[piece], *tail],
            types=[0] * len(head) + [form.second_type] * (len(ids[piece]) + len(tail)),
            offsets=[*[None] * len(head), *offsets[piece], *[None] * len(tail)],
        )

    def _training_window(self, question: Question, draw: random.Random) -> Window | None:
        asked = self._encode(question.question)[0][:64]
        _, offsets = self._encode(question.context)
        room = self._max_length - len(asked) - self._template.size
        begin, stop = question.spans[0]
        tokens = [i for i, (left, right) in enumerate(offsets) if left < stop and right > begin]
        if not tokens or len(tokens) > room:
            return None
        lowest = max(0, tokens[-1] + 1 - room)
        highest = min(tokens[0], max(0, len(offsets) - room))
        first = draw.randint(lowest, highest) if highest > lowest else lowest
        window = self._window(asked, question.context, first, room)
        form = self._template
        shift = len(form.before) + len(asked) + len(form.between) - first
        return Window(window.ids, window.types, window.offsets, tokens[0] + shift, tokens[-1] + shift)

    def _unanswerable(self, question: Question, other: str, draw: random.Random) -> Window | None:
        """A window of the question's own text that lacks the answer where there is room for one, else of
        another text; the first token is the right choice there."""
        asked = self._encode(question.question)[0][:64]
        room = self._max_length - len(asked) - self._template.size
        _, offsets = self._encode(question.context)
        answer = [i for i, (left, _) in enumerate(offsets) if left >= question.spans[0][0]]
        if answer and answer[0] > 40:
            first = draw.randint(0, answer[0] - 40)
            return self._window(asked, question.context, first, min(room, answer[0] - first))
        if any(accepted in other for accepted in question.answers):
            return None
        return self._window(asked, other, 0, room)

    def _all_windows(self, question: Question, max_length: int) -> list[Window]:
        asked = self._encode(question.question)[0][:64]
        size = len(self._encode(question.context)[0])
        room = max_length - len(asked) - self._template.size
        shared = min(self._stride, room // 2)
        step = room - shared
        starts = [0, *range(step, max(1, size - shared), step)] if size > room else [0]
        return [self._window(asked, question.context, first, room) for first in starts]
