"""Sentence embeddings: the pooled hidden state of an encoder, as the checkpoint's sentence-transformers modules say."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from app.engine.protocol import EncodeRequest
from app.errors import InvalidRequest
from app.tasks.base import Side, Task, Usage, cut_ids, to_array
from model.config import TransformerConfig


class Embed(Task):
    """The engine pools as the checkpoint says; here the vectors are cut and scaled to length one."""

    name: ClassVar[str] = "embed"

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """A bare encoder: whoever publishes one without a head means its hidden states."""
        return config.kind == "encoder" and config.head == "none"

    async def run(
        self,
        inputs: Sequence[str] | Sequence[list[int]],
        usage: Usage,
        *,
        dimensions: int | None = None,
        truncate: bool = False,
        side: Side = "right",
        normalizes: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Rows of unit length [num_inputs, dimensions or hidden size]; inputs are texts or ready token ids.

        `dimensions` keeps the first features and scales again; `side` is the one that `truncate` cuts. Without
        `normalizes` rows are as the checkpoint pools them. Raises InvalidRequest for an input too long.
        """
        size = self.model.config.hidden_size
        if dimensions is not None and dimensions > size:
            raise InvalidRequest(f"dimensions must not be over {size} for {self.model.name!r}", "dimensions")
        rows = await self._ids(inputs)
        fitting = self.fit(rows, "input", truncate, side)
        return await self.vectors(fitting, usage, dimensions, normalizes=normalizes)

    async def read(self, texts: Sequence[str], param: str, truncate: bool = False) -> list[list[int]]:
        """Texts as `vectors` takes them. Raises InvalidRequest that names `param` for one too long."""
        return self.fit([encoding.ids for encoding in await self.tokenize(texts)], param, truncate)

    def fit(
        self, rows: Sequence[list[int]], param: str, truncate: bool, side: Side = "right"
    ) -> list[list[int]]:
        """The rows as they are, or cut to the model's length. Raises InvalidRequest for one too long."""
        if truncate:
            rows = [cut_ids(ids, self.model.special_ids, self.model.max_length, side) for ids in rows]
        for ids in rows:
            self.check_length(len(ids), param)
        return list(rows)

    async def vectors(
        self,
        rows: Sequence[list[int]],
        usage: Usage,
        dimensions: int | None = None,
        *,
        normalizes: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Rows [num_rows, dimensions or hidden size], scaled to unit length where it `normalizes`."""
        requests = [EncodeRequest(model=self.model.address, ids=ids, output="embedding") for ids in rows]
        answers = await self.encode(requests, usage)
        vectors = np.stack([to_array(answer) for answer in answers])[:, :dimensions]
        if not normalizes:
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype("<f4")
        return unit

    def prompt(self, name: str | None) -> str:
        """The words that the checkpoint puts before a text, by their published name; none without a name."""
        if name is None:
            return ""
        if name not in self.model.prompts:
            known = ", ".join(self.model.prompts) or "no prompts"
            raise InvalidRequest(f"{self.model.name!r} publishes {known}", "prompt_name")
        return self.model.prompts[name]

    async def _ids(self, inputs: Sequence[str] | Sequence[list[int]]) -> list[list[int]]:
        texts = [item for item in inputs if isinstance(item, str)]
        if texts:
            return [encoding.ids for encoding in await self.tokenize(texts)]
        ids = [list(item) for item in inputs if not isinstance(item, str)]
        for row in ids:
            if max(row) >= self.model.vocab_size:
                raise InvalidRequest(f"token ids must be below {self.model.vocab_size}", "input")
        return ids
