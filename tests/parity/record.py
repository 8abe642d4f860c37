"""`make parity-record`: what the pipelines of transformers and sentence-transformers answer, kept as JSON.

Runs in an environment of its own (`recorder.txt`) and imports nothing of the service. The checkpoints are those
of `seeded.py`; each file under `recorded/` holds one task's, by family, with the answers to `inputs.json`.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers.pipelines.question_answering import select_starts_ends

from tests.parity.seeded import Described, checksum, make_tokenizer, make_weights, write_folder

HERE = Path(__file__).parent / "recorded"
ZOO = Path("model/zoo/minilm")
INPUTS: dict[str, Any] = json.loads((HERE / "inputs.json").read_text(encoding="utf-8"))
TEXTS: list[str] = INPUTS["texts"]
MAX_ANSWER_TOKENS = 30
NEW_TOKENS = 24

_LENGTHS = {"max_position_embeddings": 400}
_ENCODER = _LENGTHS | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER |= {"intermediate_size": 48}
_DECODER = _ENCODER | {"max_position_embeddings": 512, "num_key_value_heads": 2}
_STACKS: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48}
_STACKS |= {"decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_STACKS |= {"max_position_embeddings": 512, "forced_eos_token_id": None}
_PREFIX = "translate English to German: "
# What a pipeline called translation_en_to_de looks up.
_PAIR = {"task_specific_params": {"translation_en_to_de": {"prefix": ""}}}

# family: the stem of its classes, its tokenizer, its config
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "wordpiece", _ENCODER),
    "roberta": (
        "Roberta",
        "roberta",
        _ENCODER
        | {"max_position_embeddings": 402, "type_vocab_size": 1, "pad_token_id": 1}
        | {"bos_token_id": 0, "eos_token_id": 2},
    ),
    "distilbert": (
        "DistilBert",
        "wordpiece-untyped",
        _LENGTHS | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "deberta-v2": (
        "DebertaV2",
        "deberta",
        _ENCODER
        | {"relative_attention": True, "position_biased_input": False, "position_buckets": 16}
        | {"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "share_att_key": True}
        | {"type_vocab_size": 0},
    ),
}
LABELS: dict[str, dict[str, Any]] = {
    "bert": {"num_labels": 3},
    "roberta": {"num_labels": 4, "problem_type": "multi_label_classification"},
    "distilbert": {"num_labels": 1},
    "deberta-v2": {"num_labels": 5},
}
TRANSLATORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": (
        "T5ForConditionalGeneration",
        "t5",
        {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
        | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "n_positions": 512}
        | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 32}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
        | {"task_specific_params": {"translation_en_to_de": {"prefix": _PREFIX}}},
    ),
    "marian": (
        "MarianMTModel",
        "marian",
        _STACKS | _PAIR | {"scale_embedding": True, "eos_token_id": 0, "activation_function": "swish"},
    ),
    "bart": (
        "BartForConditionalGeneration",
        "roberta",
        _STACKS
        | _PAIR
        | {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    ),
}
WRITERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "gpt2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        | {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
    ),
    "llama": (
        "LlamaForCausalLM",
        "llama",
        _DECODER | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "rope_theta": 500.0},
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        "qwen",
        _DECODER | {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        "qwen",
        _DECODER | {"head_dim": 10, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0},
    ),
}
POOLINGS = [{"mode": mode, "normalize": is_unit} for mode in ("cls", "mean", "last") for is_unit in (0, 1)]

# By tokenizer; T5 does not scale its attention scores, and Marian's large embeddings drown its layers.
SCALES = {"t5": 0.3, "marian": 1.5}

Recorder = Callable[[Path], list[Any]]


def main() -> None:
    torch.set_num_threads(1)
    heads: dict[str, tuple[str, dict[str, dict[str, Any]], Recorder]] = {
        "qa": ("ForQuestionAnswering", {}, answer_questions),
        "classify": ("ForSequenceClassification", LABELS, classify),
        "fill-mask": ("ForMaskedLM", {}, fill_masks),
        "token-class": ("ForTokenClassification", {key: {"num_labels": 5} for key in ENCODERS}, tag_tokens),
    }
    for task, (head, changes, recorder) in heads.items():
        record(
            task,
            {
                family: (stem + head, tokenizer, config | changes.get(family, {}))
                for family, (stem, tokenizer, config) in ENCODERS.items()
            },
            recorder,
        )
    record("translate", TRANSLATORS, translate)
    record("generate", WRITERS, write)
    record_embeddings()


def record(
    task: str, models: dict[str, tuple[str, str, dict[str, Any]]], recorder: Recorder, **inputs: Any
) -> None:
    """Writes `recorded/<task>.json`; `inputs` are kept in it where they are not those of `inputs.json`."""
    kept = {}
    for seed, (family, (name, tokenizer, config)) in enumerate(models.items(), start=1):
        with tempfile.TemporaryDirectory() as root:
            described = describe(name, tokenizer, config, seed)
            folder = Path(root) / family
            write_folder(described, folder)
            check(name, folder)
            tokens = tokens_checksum(folder)
            kept[family] = {"checkpoint": described, "tokens": tokens, "answers": recorder(folder)}
    save(task, inputs | kept)


def describe(name: str, tokenizer: str, config: dict[str, Any], seed: int) -> Described:
    """A checkpoint of the class `name`: what its folder holds and what its weights come to."""
    model_class = getattr(hf, name)
    scale = SCALES.get(tokenizer, 0.6)
    size = make_tokenizer(tokenizer)[0].get_vocab_size()
    config = {"vocab_size": size} | config
    if tokenizer == "marian":
        config |= {"pad_token_id": size - 1, "decoder_start_token_id": size - 1}
    model = model_class(model_class.config_class(**config))
    shapes = {key: list(value.shape) for key, value in model.named_parameters() if value.requires_grad}
    shapes |= {key: list(value.shape) for key, value in model.named_buffers() if key == "final_logits_bias"}
    written = model.config.to_diff_dict() | {"architectures": [name]} | config
    written.pop("num_labels", None)  # the maps of labels say it
    return {
        "config": {key: value for key, value in written.items() if key != "transformers_version"},
        "tokenizer": tokenizer,
        "seed": seed,
        "scale": scale,
        "tensors": shapes,
        "weights": checksum(make_weights(shapes, seed, scale)),
    }


def check(name: str, folder: Path) -> None:
    """The recording library must read the folder as it was meant, or the record would be of something else."""
    model, told = getattr(hf, name).from_pretrained(folder, output_loading_info=True)
    computed = [key for key in told["missing_keys"] if not key.endswith("embed_positions.weight")]
    assert not computed, computed
    assert not told["unexpected_keys"], told["unexpected_keys"]
    assert not told["mismatched_keys"], told["mismatched_keys"]
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == plain.encode(text).ids, text
    assert len(tokenizer) == model.config.vocab_size


def tokens_checksum(folder: Path) -> str:
    """Of the ids of every text."""
    ids = hf.AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def answer_questions(folder: Path) -> list[Any]:
    """The pipeline's answer to each question, and what its model says window by window.

    `windows` has of each window of the context the best span's characters, and how far that span's two logits
    are above those of the window's first token; `none` is the pipeline's score for having no answer.
    """
    pipe = make_pipeline("question-answering", folder)
    kept = []
    for item in INPUTS["questions"]:
        best = pipe(**item, align_to_words=False, max_answer_len=MAX_ANSWER_TOKENS)
        windows, none = best_of_windows(pipe, item)
        kept.append(
            {key: best[key] for key in ("start", "end", "score")} | {"none": none, "windows": windows}
        )
    return kept


def best_of_windows(pipe: Any, item: dict[str, str]) -> tuple[list[list[float]], float]:
    """[first character, last one, value] of each window's best span, and the score for no answer in any."""
    kept, none = [], 1e6
    for window in pipe.preprocess(item):
        with torch.inference_mode():
            output = pipe._forward(window)
        logits = output["start"], output["end"]
        masks = output["p_mask"], output["attention_mask"].numpy()
        none = select_starts_ends(*logits, *masks, none, 1, True, MAX_ANSWER_TOKENS)[-1]
        start, end = output["start"][0].double().numpy(), output["end"][0].double().numpy()
        encoding = window["encoding"]
        context = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
        spans = [
            (start[i] + end[j], i, j)
            for i in context
            for j in range(i, min(i + MAX_ANSWER_TOKENS, context[-1] + 1))
        ]
        value, i, j = max(spans)
        kept.append([encoding.offsets[i][0], encoding.offsets[j][1], float(value - start[0] - end[0])])
    return kept, float(none)


def classify(folder: Path) -> list[Any]:
    """Labels with scores, best first."""
    pipe = make_pipeline("text-classification", folder)
    return [[[one["label"], one["score"]] for one in pipe(text, top_k=None)] for text in TEXTS]


def fill_masks(folder: Path) -> list[Any]:
    """Tokens with scores, best first."""
    pipe = make_pipeline("fill-mask", folder)
    texts = [text.replace("[MASK]", pipe.tokenizer.mask_token) for text in INPUTS["masked"]]
    return [[[one["token_str"], one["score"]] for one in pipe(text, top_k=5)] for text in texts]


def tag_tokens(folder: Path) -> list[Any]:
    """Of each token that is not a special one: its place, its likeliest label, the score, the characters."""
    pipe = make_pipeline("token-classification", folder)
    keys = ("index", "entity", "score", "start", "end")
    return [[[one[key] for key in keys] for one in pipe(text, ignore_labels=[])] for text in TEXTS]


def translate(folder: Path) -> list[Any]:
    """Of each text the greedy answer, and the best of four beams."""
    pipe = make_pipeline("translation_en_to_de", folder)
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS}
    return [
        [pipe(text, num_beams=num_beams, **settings)[0]["translation_text"] for num_beams in (1, 4)]
        for text in TEXTS
    ]


def write(folder: Path) -> list[Any]:
    """Greedy token ids, and the text that they add to the prompt."""
    pipe = make_pipeline("text-generation", folder)
    settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS}
    kept = []
    for text in TEXTS:
        ids = pipe(text, **settings, return_tensors=True)[0]["generated_token_ids"]
        new = ids[len(pipe.tokenizer(text)["input_ids"]) :]
        told = pipe(text, **settings, return_full_text=False, clean_up_tokenization_spaces=False)
        kept.append([new, told[0]["generated_text"]])
    return kept


def record_embeddings() -> None:
    """Writes `recorded/embeddings.json`: one checkpoint under every pooling, and the zoo's own."""
    stem, tokenizer, config = ENCODERS["bert"]
    described = describe(f"{stem}Model", tokenizer, config, seed=9)
    described["tensors"] = {
        key: shape for key, shape in described["tensors"].items() if not key.startswith("pooler")
    }
    weights = make_weights(described["tensors"], described["seed"], described["scale"])
    described["weights"] = checksum(weights)
    vectors = {}
    with tempfile.TemporaryDirectory() as root:
        for pooling in POOLINGS:
            name = f"{pooling['mode']}{'-unit' if pooling['normalize'] else ''}"
            write_folder(described, Path(root) / name, pooling)
            vectors[name] = embed(Path(root) / name, TEXTS)
        tokens = tokens_checksum(Path(root) / "mean")
    stored = hashlib.sha256((ZOO / "model.safetensors").read_bytes()).hexdigest()
    zoo = {"weights": stored, "vectors": embed(ZOO, INPUTS["sentences"])}
    save("embeddings", {"checkpoint": described, "tokens": tokens, "vectors": vectors, "zoo": zoo})


def embed(folder: Path, texts: Sequence[str]) -> list[list[float]]:
    """One at a time, so that no padding is in it."""
    model = SentenceTransformer(str(folder), device="cpu")
    return [np.round(model.encode(text).astype(np.float64), 7).tolist() for text in texts]


def make_pipeline(task: str, folder: Path) -> Any:
    model = {"model": str(folder), "tokenizer": str(folder), "device": "cpu"}
    return hf.pipeline(task, **model, dtype=torch.float32)


def save(task: str, content: dict[str, Any]) -> None:
    """One line an answer, so that a change can be read."""
    recorded = {"transformers": hf.__version__, "torch": torch.__version__} | content
    (HERE / f"{task}.json").write_text(_lines(recorded) + "\n", encoding="utf-8")


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with line breaks down to the third level."""
    if depth == 3 or not isinstance(value, dict | list) or not value:
        return json.dumps(_rounded(value), ensure_ascii=False)
    blank = " " * (depth + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(blank + _lines(one, depth + 1) for one in value) + "\n" + " " * depth + "]"
    entries = [f"{blank}{json.dumps(key)}: {_lines(one, depth + 1)}" for key, one in value.items()]
    return "{\n" + ",\n".join(entries) + "\n" + " " * depth + "}"


def _rounded(value: Any) -> Any:
    """Scores to nine significant digits: a float32 has seven."""
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.9g}")
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value.item() if isinstance(value, np.integer) else value


if __name__ == "__main__":
    main()
