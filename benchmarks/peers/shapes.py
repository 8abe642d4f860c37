"""Checkpoints with the shapes of published ones and random weights, which cost a step as much as any."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

QWEN = "qwen2-0.5b"
MARIAN = "marian"
T5 = "t5-small"
BERT = "bert-base"


def _qwen() -> transformers.PreTrainedModel:
    config = transformers.Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=151_643,
        eos_token_id=151_645,
    )
    return transformers.Qwen2ForCausalLM(config).to(torch.bfloat16)


def _marian() -> transformers.PreTrainedModel:
    """As the Helsinki ones: the last id pads and starts the decoder."""
    pad = 58_100
    config = transformers.MarianConfig(
        vocab_size=pad + 1,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        activation_function="swish",
        max_position_embeddings=512,
        scale_embedding=True,
        static_position_embeddings=True,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        bos_token_id=0,
        eos_token_id=0,
        forced_eos_token_id=None,
    )
    model = transformers.MarianMTModel(config)
    model.generation_config.forced_eos_token_id = None
    model.generation_config.bad_words_ids = None
    return model


def _t5() -> transformers.PreTrainedModel:
    config = transformers.T5Config(
        vocab_size=32_128,
        d_model=512,
        d_kv=64,
        d_ff=2048,
        num_layers=6,
        num_heads=8,
        feed_forward_proj="relu",
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return transformers.T5ForConditionalGeneration(config)


def _bert() -> transformers.PreTrainedModel:
    return transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=2))


SHAPES: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    QWEN: _qwen,
    MARIAN: _marian,
    T5: _t5,
    BERT: _bert,
}


def write(name: str, folder: Path) -> Path:
    """`folder`/`name`, made if it is not there yet. Each id is a word of the tokenizer: 17 is "w17"."""
    path = folder / name
    if (path / "tokenizer.json").exists():
        return path
    torch.manual_seed(0)
    model = SHAPES[name]()
    model.save_pretrained(path)
    size = model.config.vocab_size
    words = {f"w{number}": number for number in range(size)}
    if name == MARIAN:
        words["<pad>"] = words.pop(f"w{size - 1}")  # CTranslate2 asks for it by this name
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {
        QWEN: {"eos_token": "w151645", "pad_token": "w151643"},
        MARIAN: {"eos_token": "w0", "pad_token": "<pad>"},
        T5: {"eos_token": "w1", "pad_token": "w0"},
        BERT: {"pad_token": "w0", "cls_token": "w101", "sep_token": "w102", "mask_token": "w103"},
    }[name]
    tokenizer.save(str(path / "tokenizer.json"))
    # by the class name that older releases, which some peers need, know too
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w2", **special}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def vocabulary(folder: Path) -> int:
    size: int = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    return size


if __name__ == "__main__":
    for wanted in sys.argv[2:] or SHAPES:
        print(write(wanted, Path(sys.argv[1])))
