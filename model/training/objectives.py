"""From a recipe to its objective: reads the data it names, tokenizes it, and hands it over."""

from collections.abc import Iterable
from pathlib import Path

from model.config import TransformerConfig
from model.generation_config import GenerationConfig
from model.tokenization import Tokenizer
from model.training import data as files
from model.training.config import TARGET_LANGUAGES, Recipe
from model.training.finetune import Classification, ExtractiveAnswers
from model.training.loop import Objective
from model.training.metrics import translation_scores
from model.training.pretrain import MaskedLanguageModel, NextToken, SpanCorruption
from model.training.questions import training_questions
from model.training.spans import PairTemplate, Question
from model.training.text_to_text import GREEDY, TextToText, translate
from model.training.tokenizer import NUM_SENTINELS
from model.transformer import Transformer


def build_objective(
    recipe: Recipe, model: Transformer, tokenizer: Tokenizer, config: TransformerConfig, data: Path, head: str
) -> Objective:
    """The recipe's objective over its training and development data."""
    adapter = None if recipe.lora is None else head
    if recipe.objective == "span-corruption":
        return _span_corruption(recipe, tokenizer, config, data)
    if recipe.objective == "text-to-text":
        return _text_to_text(recipe, tokenizer, config, data)
    if recipe.objective == "next-token":
        return NextToken(
            _encode_all(tokenizer, running_text(recipe, data)),
            _encode_all(tokenizer, ("\n".join(a) for a in files.wikitext_articles(data, "valid"))),
            block=recipe.max_length,
            separator=config.bos_token_id or 0,
            unlearned=unknown_ids(tokenizer),
        )
    if recipe.objective == "masked-lm":
        return masked_language_model(recipe, tokenizer, config, data, ("train", "valid"), head, adapter)
    if recipe.objective == "classification":
        return classification(recipe, tokenizer, config, data, head, adapter)
    return _extractive(recipe, tokenizer, data, head, adapter)


def unknown_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids of the corpus' mark for rare words."""
    found = (tokenizer.token_id(token) for token in ("<unk>", "[UNK]"))
    return frozenset(token for token in found if token is not None)


def _encode_all(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    return [list(e.ids) for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def running_text(recipe: Recipe, data: Path) -> list[str]:
    """The documents of a recipe's text data sets, training parts only."""
    texts: list[str] = []
    if "fiction" in recipe.datasets:
        # Books are cut into pieces of some pages, so that documents of all kinds come mixed.
        for book in files.fiction_books(data):
            texts += ["\n".join(book[at : at + 40]) for at in range(0, len(book), 40)]
    if "tinystories" in recipe.datasets:
        stories = files.children_stories(data)
        texts += ["\n".join(stories[at : at + 12]) for at in range(0, len(stories), 12)]
    if "wikitext-2" in recipe.datasets:
        texts += ["\n".join(article) for article in files.wikitext_articles(data, "train")]
    return texts


def translation_texts(data: Path) -> list[str]:
    """Both sides of the training pairs; the English ones of Chinese are left out, as others have them."""
    texts = []
    for language in TARGET_LANGUAGES:
        for english, target in files.translation_pairs(data, language, "train"):
            texts += [target] if language == "zh" else [english, target]
    return texts


def _span_corruption(
    recipe: Recipe, tokenizer: Tokenizer, config: TransformerConfig, data: Path
) -> Objective:
    texts = list(dict.fromkeys(translation_texts(data)))
    texts += [s for article in files.wikitext_articles(data, "train") for s in sentences(article)]
    ids = [list(e.ids[: recipe.max_length]) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    sentinels = [tokenizer.token_id(f"<extra_id_{index}>") or 0 for index in range(NUM_SENTINELS)]
    return SpanCorruption(
        ids,
        sentinels=sentinels,
        end=config.eos_token_ids[0],
        start=config.decoder_start_token_id or 0,
        pad_id=config.pad_token_id,
    )


def sentences(paragraphs: Iterable[str]) -> list[str]:
    """Paragraphs cut after full stops that end a word of two letters or more."""
    out = []
    for paragraph in paragraphs:
        at = 0
        for index in range(2, len(paragraph) - 2):
            if (
                paragraph[index] in ".!?"
                and paragraph[index + 1] == " "
                and paragraph[index - 2 : index].isalpha()
            ):
                out.append(paragraph[at : index + 1])
                at = index + 2
        out.append(paragraph[at:])
    return [text for text in out if text.strip()]


def _text_to_text(recipe: Recipe, tokenizer: Tokenizer, config: TransformerConfig, data: Path) -> Objective:
    start = config.decoder_start_token_id or 0
    repeat = recipe.options.get("repeat", {})
    if recipe.datasets == ("wiki-split",):
        rows = [row for row in files.read_tsv(data / "seq2seq" / "wiki-split.tsv.gz") if row[0] != "test"]
        texts = [(row[1], row[2].replace(" <::::> ", " ")) for row in rows]
    else:
        texts = [
            (f"<2{language}> {english}", target)
            for language in TARGET_LANGUAGES
            for english, target in files.translation_pairs(data, language, "train")
            for _ in range(repeat.get(language, 1))
        ]
    sources = tokenizer.encode_batch([source for source, _ in texts])
    targets = tokenizer.encode_batch([target for _, target in texts])
    pairs = [
        (list(source.ids), list(target.ids))
        for source, target in zip(sources, targets, strict=True)
        if max(len(source.ids), len(target.ids)) <= recipe.max_length
    ]

    def validate(model: Transformer) -> dict[str, float]:
        if recipe.datasets == ("wiki-split",):
            return {}
        scores = {}
        for language in TARGET_LANGUAGES:
            some = files.translation_pairs(data, language, "dev")[:300]
            guesses = translate_texts(model, tokenizer, [english for english, _ in some], language)
            scores[f"bleu_{language}"] = float(
                translation_scores(guesses, [target for _, target in some], language)["bleu"]
            )
        return scores

    return TextToText(
        pairs,
        start=start,
        pad_id=config.pad_token_id,
        label_smoothing=recipe.label_smoothing,
        lexical=float(recipe.options.get("lexical", 0.0)),
        validate=validate,
    )


def translate_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: list[str],
    language: str,
    generation: GenerationConfig = GREEDY,
) -> list[str]:
    """English to `language`; equal texts are translated once."""
    unique = list(dict.fromkeys(texts))
    encoded = tokenizer.encode_batch([f"<2{language}> {text}" for text in unique])
    answers = translate(model, [list(e.ids) for e in encoded], generation)
    by_text = {text: tokenizer.decode(ids) for text, ids in zip(unique, answers, strict=True)}
    return [by_text[text] for text in texts]


def masked_language_model(
    recipe: Recipe,
    tokenizer: Tokenizer,
    config: TransformerConfig,
    data: Path,
    splits: tuple[str, str],
    head: str,
    adapter: str | None,
) -> MaskedLanguageModel:
    """BERT's objective over two splits of WikiText-2, (training, validation); "" for none."""
    parts = []
    for split in splits:
        articles = files.wikitext_articles(data, split) if split else []
        texts = [sentences(article) for article in articles]
        parts.append([_encode_all(tokenizer, (t.replace("<unk>", "[UNK]") for t in text)) for text in texts])
    return MaskedLanguageModel(
        parts[0],
        parts[1],
        block=recipe.max_length,
        cls=tokenizer.token_id("[CLS]") or 0,
        sep=tokenizer.token_id("[SEP]") or 0,
        mask=tokenizer.token_id("[MASK]") or 0,
        first_word=999,
        vocab_size=config.vocab_size,
        pad_id=config.pad_token_id,
        unlearned=unknown_ids(tokenizer),
        head=head,
        adapter=adapter,
        seed=recipe.schedule.seed,
    )


def classification(
    recipe: Recipe,
    tokenizer: Tokenizer,
    config: TransformerConfig,
    data: Path,
    head: str,
    adapter: str | None,
) -> Classification:
    """The recipe's labelled texts, each set as often as its `repeat` option says; with the option `per_label`, the
    first so many of each label."""
    repeat, per_label = recipe.options.get("repeat", {}), recipe.options.get("per_label")
    numbers = {label: number for number, label in enumerate(config.labels)}

    def examples(split: str) -> list[tuple[list[int], int]]:
        rows = []
        for name in recipe.datasets:
            some = files.labelled_texts(data, name, split)
            if per_label and split == "train":
                some = files.first_of_each_label(some, per_label)
            rows += some * int(repeat.get(name, 1) if split == "train" else 1)
        encoded = tokenizer.encode_batch([text for text, _ in rows])
        return [
            (list(e.ids[: recipe.max_length]), numbers[row[1]]) for e, row in zip(encoded, rows, strict=True)
        ]

    return Classification(
        examples("train"),
        examples("dev"),
        pad_id=config.pad_token_id,
        label_smoothing=recipe.label_smoothing,
        head=head,
        adapter=adapter,
    )


def _extractive(
    recipe: Recipe, tokenizer: Tokenizer, data: Path, head: str, adapter: str | None
) -> Objective:
    train, dev = (
        [asked.question for asked in part]
        for part in (training_questions(data, is_dev=False), training_questions(data, is_dev=True))
    )
    return extractive_answers(recipe, tokenizer, train, dev, head, adapter)


def extractive_answers(
    recipe: Recipe,
    tokenizer: Tokenizer,
    train_questions: list[Question],
    dev_questions: list[Question],
    head: str,
    adapter: str | None,
) -> ExtractiveAnswers:
    """The objective over given questions."""
    return ExtractiveAnswers(
        train_questions,
        dev_questions,
        tokenizer,
        max_length=recipe.max_length,
        negatives=float(recipe.options.get("negatives", 0.0)),
        template=PairTemplate.of(tokenizer),
        head=head,
        adapter=adapter,
        seed=recipe.schedule.seed,
    )
