"""The second part of `make parity-record`: entities, zero-shot classification, reranking.

The checkpoints take 64 tokens, so that texts at the limit and beyond it stay short.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder

from tests.parity.record import INPUTS, make_pipeline, record

LIMIT = 64
STRIDE = 16
AGGREGATIONS = ("none", "simple", "first", "average", "max")
SPELLED = ("simple", "first")
LABELS = ["river", "city life", "Größe", "東京"]
TEMPLATES = ["This example is {}.", "It is {} – новый."]
QUERIES = ["Who named the river?", "большой дом 🚀"]

_PHRASES = [
    "",
    "x",
    " ",
    "\n",
    "é",
    "Ada Lovelace was the first",
    "the engine of Charles Babbage, London",
    "people-of-the-city",
    "unbelievable engineering",
    "It's small; isn't it?",
    "U.S.A. and U.N.",
    "a.b.c/d?e=f",
    "MIXED case Words",
    "ﬁne ligatures ½ and ² too",
    "İstanbul'da bir ev",
    "e\u0301cole combined",
    "zero\u200bwidth space",
    "non\u00a0breaking blank",
    "[CLS] is no word [SEP]",
    "<s> nor is this </s>",
    "[UNK] <unk> ☃",
    "☃ snow ☃☃",
    "日本語東京水川",
    "東京 is 大 and 川 is water",
    "한국어 텍스트",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "ภาษาไทย",
    "👩‍👩‍👧‍👦",
    "1 2 3 4 5",
    "water" * 30,
]
"""Short ones, characters that no vocabulary has, blanks of every kind, and a word that WordPiece gives up on."""


def words(count: int) -> str:
    """A text of so many tokens: each of these words is one to every tokenizer here."""
    whole = [
        "the",
        "river",
        "and",
        "water",
        "of",
        "life",
        "built",
        "people",
        "where",
        "old",
        "light",
        "was",
        "named",
    ]
    return " ".join((whole * (count // len(whole) + 1))[:count])


def texts() -> list[str]:
    """Fifty: at the limit with two special tokens around it, one over it, and far over it at the end."""
    return [*INPUTS["texts"][:16], *_PHRASES, words(LIMIT - 2), words(LIMIT - 1), words(3 * LIMIT)]


_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_BERT = _SIZES | {"max_position_embeddings": LIMIT}
_ROBERTA = _SIZES | {"max_position_embeddings": LIMIT + 2, "type_vocab_size": 1, "pad_token_id": 1}
_ROBERTA |= {"bos_token_id": 0, "eos_token_id": 2}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
_BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": LIMIT}
_BART |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}


def labelled(*labels: str) -> dict[str, Any]:
    """The label maps of a config."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


NAMES = labelled("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NLI = labelled("contradiction", "neutral", "entailment")
NLI_TURNED = labelled("ENTAILMENT", "NEUTRAL", "CONTRADICTION")
ONE = labelled("LABEL_0")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
    record(
        "ner",
        {
            "bert": ("BertForTokenClassification", "wordpiece", _BERT | NAMES),
            "roberta": ("RobertaForTokenClassification", "roberta", _ROBERTA | NAMES),
        },
        find_entities,
        texts=texts(),
        stride=STRIDE,
    )
    record(
        "zero-shot",
        {
            "bert": ("BertForSequenceClassification", "wordpiece", _BERT | NLI),
            "roberta": ("RobertaForSequenceClassification", "roberta", _ROBERTA | NLI_TURNED),
            "bart": ("BartForSequenceClassification", "roberta", _BART | NLI),
        },
        fit_labels,
        texts=texts(),
        labels=LABELS,
        templates=TEMPLATES,
    )
    record(
        "rerank",
        {
            "bert": ("BertForSequenceClassification", "wordpiece", _BERT | ONE),
            "roberta": ("RobertaForSequenceClassification", "roberta", _ROBERTA | ONE),
        },
        score_documents,
        queries=QUERIES,
        documents=texts(),
    )


def find_entities(folder: Path) -> list[Any]:
    """Of each text, by aggregation: [entity, score, start, end], and for two of them the word.

    What is over the limit is read with a stride, which the pipeline does not do for the aggregation "none".
    """
    pipe = limited(make_pipeline("token-classification", folder))
    kept: list[Any] = []
    for text in texts():
        is_long = len(pipe.tokenizer(text)["input_ids"]) > LIMIT
        found = {}
        for aggregation in AGGREGATIONS[is_long:]:
            settings = {"stride": STRIDE} if is_long else {}
            answer = pipe(text, aggregation_strategy=aggregation, **settings)
            group = "entity" if aggregation == "none" else "entity_group"
            keys = (group, "score", "start", "end", *(["word"] if aggregation in SPELLED else []))
            found[aggregation] = [[shorter(one[key]) for key in keys] for one in answer]
        kept.append(found)
    return kept


def fit_labels(folder: Path) -> list[Any]:
    """Of each text the scores of the labels, in their order: together, each alone, and the first one by itself."""
    pipe = limited(make_pipeline("zero-shot-classification", folder))
    kept = []
    for i, text in enumerate(texts()):
        template = TEMPLATES[i % 2]
        rows = []
        for labels, is_multi in ((LABELS, False), (LABELS, True), (LABELS[:1], False)):
            answer = pipe.postprocess(
                [pipe.forward(one) for one in pipe.preprocess([text], labels, template)], multi_label=is_multi
            )
            scores = dict(zip(answer["labels"], answer["scores"], strict=True))
            rows.append([shorter(scores[label]) for label in labels])
        kept.append(rows)
    return kept


def score_documents(folder: Path) -> list[Any]:
    """Of each query the score of each document."""
    model = CrossEncoder(str(folder), device="cpu", max_length=LIMIT)
    return [
        [shorter(score) for score in model.predict([(query, text) for text in texts()], batch_size=1)]
        for query in QUERIES
    ]


def limited(pipe: Any) -> Any:
    """The tiny checkpoints' tokenizers know no limit."""
    pipe.tokenizer.model_max_length = LIMIT
    assert [len(pipe.tokenizer(text)["input_ids"]) for text in texts()[-3:-1]] == [LIMIT, LIMIT + 1]
    return pipe


def shorter(value: Any) -> Any:
    """Scores to six digits behind the point."""
    return value if isinstance(value, str | int) else round(float(value), 6)


if __name__ == "__main__":
    main()
