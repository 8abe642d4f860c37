"""The likeliest tokens in the place of a text's mask token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from app.engine.protocol import EncodeRequest
from app.errors import InvalidRequest
from app.tasks.base import Task, Usage, to_array
from model.config import TransformerConfig
from model.tokenization import Encoding

_CONTINUATION = "##"
"""How WordPiece marks a token that goes on with the word before it."""
_WORD_STARTS = ("▁", "Ġ")
"""How SentencePiece and byte-level BPE mark a token that begins a word."""


@dataclass(frozen=True)
class Filling:
    """One token for the mask, its probability among all tokens, and the text with it in place."""

    token_id: int
    token: str
    score: float
    text: str


class FillMask(Task):
    """One encode per text, with one mask token in it."""

    name: ClassVar[str] = "fill-mask"

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """An encoder with a masked-LM head, alone or beside next-sentence prediction."""
        return config.kind == "encoder" and config.head in ("masked-lm", "pretraining")

    async def run(
        self,
        texts: Sequence[str],
        usage: Usage,
        *,
        top_k: int,
        targets: Sequence[str] = (),
        decodes: bool = False,
    ) -> list[list[Filling]]:
        """The `top_k` likeliest tokens per text, best first; only among `targets` where there are any.

        The token takes the mask's place in the text as it came; with `decodes` both are what the tokenizer makes of
        their ids, as the pipelines of `transformers` tell them. Raises InvalidRequest unless a text has just one mask.
        """
        encodings = await self.tokenize(texts)
        positions = [self._mask_position(encoding) for encoding in encodings]
        candidates = [self._target_id(target) for target in targets]
        requests = [
            EncodeRequest(
                model=self.model.address,
                ids=encoding.ids,
                type_ids=encoding.type_ids,
                output="mask",
                positions=[position],
                candidates=list(dict.fromkeys(candidates)),
                top_k=top_k,
            )
            for encoding, position in zip(encodings, positions, strict=True)
        ]
        answers = await self.encode(requests, usage)
        results = []
        for text, encoding, position, answer in zip(texts, encodings, positions, answers, strict=True):
            scores = to_array(answer).reshape(-1).tolist()
            span = encoding.offsets[position]
            ranked = [
                (i, score)
                for i, score in zip(answer.ids, scores, strict=True)
                if self.model.tokenizer.id_to_token(i)
                is not None  # a row of the matrix beyond the vocabulary
            ]
            if decodes:
                results.append([self._decoded(encoding.ids, position, i, score) for i, score in ranked])
            else:
                results.append([self._fill(text, span, i, score) for i, score in ranked])
        return results

    def _mask_position(self, encoding: Encoding) -> int:
        self.check_length(len(encoding.ids), "text")
        mask = self.model.tokenizer.mask_token_id
        places = [i for i, token_id in enumerate(encoding.ids) if token_id == mask]
        if len(places) != 1:
            fault = "no" if not places else f"{len(places)} times the"
            raise InvalidRequest(
                f"the text has {fault} mask token {self.model.tokenizer.mask_token}; one is needed", "text"
            )
        return places[0]

    def _target_id(self, target: str) -> int:
        """A token as the vocabulary spells it, else the first of those that the word is cut into."""
        token_id = self.model.tokenizer.token_id(target)
        if token_id is not None:
            return token_id
        ids = self.model.tokenizer.encode(target, add_special_tokens=False).ids
        if not ids:
            raise InvalidRequest(f"{target[:100]!r} has no token in the vocabulary", "targets")
        return ids[0]

    def _decoded(self, ids: list[int], position: int, token_id: int, score: float) -> Filling:
        decode = self.model.tokenizer.decode
        token = decode([token_id], skip_special_tokens=False)
        return Filling(token_id, token, score, decode([*ids[:position], token_id, *ids[position + 1 :]]))

    def _fill(self, text: str, span: tuple[int, int], token_id: int, score: float) -> Filling:
        spelling = self.model.tokenizer.id_to_token(token_id) or ""
        before, after = text[: span[0]], text[span[1] :]
        if spelling.startswith(_CONTINUATION):
            filled = before.rstrip() + spelling.removeprefix(_CONTINUATION) + after
            return Filling(token_id, spelling, score, filled)
        word = self.model.tokenizer.decode([token_id], skip_special_tokens=False)
        if spelling.startswith(_WORD_STARTS) and len(spelling) > 1:
            # It brings its own space, which the mask token may have taken with it and the decoder may drop.
            word = word.removeprefix(" ")
            before += " " if before and not before[-1].isspace() else ""
        return Filling(token_id, word, score, before + word + after)
