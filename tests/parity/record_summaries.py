"""The third part of `make parity-record`: the summarization pipeline, with what checkpoints publish for it.

The texts are those of `record_encoders.py`: at the limit of 64 tokens, one over it and far over it at the end.
"""

from pathlib import Path
from typing import Any

import torch

from tests.parity.record import TRANSLATORS, make_pipeline, record
from tests.parity.record_encoders import LIMIT, texts

PREFIX = "first "
"""One token, so that T5's sources are as long as BART's with its two special tokens."""

_CNN = {"early_stopping": True, "length_penalty": 2.0, "no_repeat_ngram_size": 3, "num_beams": 4}
_FORCED = {"forced_bos_token_id": 0, "forced_eos_token_id": 2}
_T5 = TRANSLATORS["t5"][2] | {"n_positions": LIMIT}
_BART = TRANSLATORS["bart"][2] | {"max_position_embeddings": LIMIT} | _FORCED


def published(**params: Any) -> dict[str, Any]:
    """For the task alone."""
    return {"task_specific_params": {"summarization": params}}


SUMMARIZERS = {
    "t5": (
        "T5ForConditionalGeneration",
        "t5",
        _T5 | {"max_length": 30} | published(**_CNN, max_length=18, min_length=8, prefix=PREFIX),
    ),
    # like bart-large-cnn, but for the task's own lengths
    "bart": (
        "BartForConditionalGeneration",
        "roberta",
        _BART | _CNN | {"max_length": 24, "min_length": 6} | published(**_CNN, max_length=17, min_length=9),
    ),
    # the pipeline's own beams
    "bart-plain": (
        "BartForConditionalGeneration",
        "roberta",
        _BART | published(max_new_tokens=14, length_penalty=0.5),
    ),
}


def main() -> None:
    torch.set_num_threads(1)
    record("summarize", SUMMARIZERS, summarize, texts=texts())


def summarize(folder: Path) -> list[Any]:
    """What the pipeline says with nothing asked of it but to cut what is too long."""
    pipe = make_pipeline("summarization", folder)
    pipe.tokenizer.model_max_length = LIMIT
    lengths = [len(pipe.tokenizer((pipe.prefix or "") + text)["input_ids"]) for text in texts()[-3:]]
    assert lengths[:2] == [LIMIT, LIMIT + 1], lengths
    return [pipe(text, truncation=True)[0]["summary_text"] for text in texts()]


if __name__ == "__main__":
    main()
