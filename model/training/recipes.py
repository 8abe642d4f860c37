"""The recipes: what each stage of training learns, from which data, for how long. One table; knows no tensors."""

from collections.abc import Mapping
from dataclasses import replace

from model.training.config import TARGET_LANGUAGES, Lora, Recipe, Schedule

_TRANSLATOR = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 8192,
    "d_model": 256,
    "d_kv": 64,
    "num_heads": 4,
    "d_ff": 1024,
    "num_layers": 5,
    "num_decoder_layers": 3,
    "feed_forward_proj": "relu",
    "dropout_rate": 0.1,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "n_positions": 512,
    "task_specific_params": {
        f"translation_en_to_{language}": {"prefix": f"<2{language}> "} for language in TARGET_LANGUAGES
    },
    "quartet": {"languages": {"source": ["en"], "target": list(TARGET_LANGUAGES), "prefix": "<2{target}> "}},
}

_WRITER = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.02,
}

_BERT = {
    "model_type": "bert",
    "architectures": ["BertForPreTraining"],
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}

_SENTENCES = Recipe(
    name="translator-sentences",
    command="finetune",
    objective="text-to-text",
    datasets=("tatoeba",),
    start="translator-words",
    dropout=0.0,
    label_smoothing=0.1,
    max_length=128,
    schedule=Schedule(
        learning_rate=1.3e-3,
        embedding_rate=6.0,
        query_rate=0.125,
        max_epochs=2,
        warmup_steps=40,
        final_fraction=0.3,
        batch_tokens=1800,
    ),
)

_INTENT = Recipe(
    name="intent",
    command="finetune",
    objective="classification",
    datasets=("clinc150",),
    start="minilm",
    lora=Lora(rank=16, alpha=32, dropout=0.0),
    dropout=0.0,
    options={"most_lost": 0.005},
    schedule=Schedule(learning_rate=1e-3, max_epochs=10, max_minutes=6.0, warmup_steps=100, batch_tokens=768),
)

_QA = Recipe(
    name="qa",
    command="finetune",
    objective="extractive-qa",
    datasets=("extractive-train",),
    start="minilm",
    lora=Lora(rank=32, alpha=64, dropout=0.0),
    dropout=0.0,
    options={"negatives": 0.08},
    max_length=192,
    schedule=Schedule(
        learning_rate=1e-3, max_epochs=2, max_minutes=42.0, warmup_steps=100, batch_tokens=3072
    ),
)

_RECIPES = (
    Recipe(
        name="translator-pretrain",
        command="pretrain",
        objective="span-corruption",
        datasets=("tatoeba-sides", "wikitext-2"),
        architecture=_TRANSLATOR,
        max_length=64,
        schedule=Schedule(
            learning_rate=2.5e-3,
            embedding_rate=6.0,
            query_rate=0.125,
            max_epochs=3,
            max_minutes=4.0,
            warmup_steps=80,
            final_fraction=0.4,
            batch_tokens=1800,
        ),
    ),
    Recipe(
        name="translator-words",
        command="finetune",
        objective="text-to-text",
        datasets=("tatoeba",),
        start="translator-pretrain",
        dropout=0.0,
        max_length=128,
        options={"lexical": 1.0},
        schedule=Schedule(
            learning_rate=1.3e-3,
            embedding_rate=8.0,
            query_rate=0.125,
            max_epochs=2,
            max_minutes=9.0,
            warmup_steps=40,
            final_fraction=0.8,
            batch_tokens=1800,
        ),
    ),
    _SENTENCES,
    replace(
        _SENTENCES,
        name="translator-more",
        start="translator-sentences",
        options={"repeat": {"fr": 2}},
        schedule=replace(_SENTENCES.schedule, seed=29),
    ),
    replace(
        _SENTENCES,
        name="translator",
        start="translator-more",
        options={"repeat": {"fr": 2}},
        generation={"num_beams": 4, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
        schedule=replace(
            _SENTENCES.schedule,
            learning_rate=4e-4,
            max_epochs=1,
            final_fraction=0.02,
            average=0.998,
            seed=18,
        ),
    ),
    Recipe(
        name="writer",
        command="pretrain",
        objective="next-token",
        datasets=("fiction", "tinystories", "wikitext-2"),
        architecture=_WRITER,
        max_length=256,
        dropout=0.0,
        schedule=Schedule(
            learning_rate=2e-3,
            max_epochs=4,
            max_minutes=12.0,
            warmup_steps=60,
            final_fraction=0.05,
            batch_tokens=1024,
            weight_decay=0.05,
            betas=(0.9, 0.95),
        ),
    ),
    Recipe(
        name="fill-mask",
        command="pretrain",
        objective="masked-lm",
        datasets=("wikitext-2",),
        start="minilm",
        lora=Lora(rank=16, alpha=32, dropout=0.0),
        max_length=128,
        schedule=Schedule(
            learning_rate=1e-3, max_epochs=3, max_minutes=5.0, warmup_steps=100, batch_tokens=2048
        ),
    ),
    Recipe(
        name="bert",
        command="pretrain",
        objective="masked-lm",
        datasets=("wikitext-2",),
        architecture=_BERT,
        options={"tokenizer": "minilm"},
        max_length=128,
        schedule=Schedule(
            learning_rate=5e-4, max_epochs=10, max_minutes=60.0, warmup_steps=400, batch_tokens=4096
        ),
    ),
    _INTENT,
    replace(
        _INTENT,
        name="banking",
        datasets=("banking77",),
        options={},
        schedule=replace(_INTENT.schedule, max_epochs=14, max_minutes=5.0),
    ),
    Recipe(
        name="sentiment",
        command="finetune",
        objective="classification",
        datasets=("sentiment-sentences", "goemotions-groups"),
        start="minilm",
        lora=Lora(rank=16, alpha=32, dropout=0.0, shipped_rank=8),
        dropout=0.0,
        options={"repeat": {"sentiment-sentences": 4}},
        schedule=Schedule(
            learning_rate=7e-4, max_epochs=3, max_minutes=4.0, warmup_steps=100, batch_tokens=1024
        ),
    ),
    _QA,
    replace(
        _QA,
        name="qa-more",
        adapter_start="qa",
        lora=Lora(rank=64, alpha=128, dropout=0.05),
        options={"negatives": 0.12},
        max_length=224,
        schedule=replace(
            _QA.schedule,
            learning_rate=7e-4,
            max_epochs=4,
            max_minutes=80.0,
            warmup_steps=60,
            average=0.995,
            seed=19,
        ),
    ),
    Recipe(
        name="split",
        command="finetune",
        objective="text-to-text",
        datasets=("wiki-split",),
        start="translator-pretrain",
        dropout=0.1,
        label_smoothing=0.1,
        max_length=256,
        schedule=Schedule(
            learning_rate=1e-3,
            embedding_rate=8.0,
            query_rate=0.125,
            max_epochs=10,
            max_minutes=30.0,
            batch_tokens=3072,
        ),
    ),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}

ZOO_ORDER = (
    "intent",
    "banking",
    "sentiment",
    "qa",
    "qa-more",
    "fill-mask",
    "translator-pretrain",
    "translator-words",
    "translator-sentences",
    "translator-more",
    "translator",
    "writer",
)
"""The stages that make the embedded default models, in an order in which each finds what it starts from."""

ZOO_FOLDERS: Mapping[str, str] = {
    "intent": "intent",
    "banking": "banking",
    "sentiment": "sentiment",
    "qa-more": "qa",
    "fill-mask": "fill-mask",
    "translator": "translator",
    "writer": "writer",
}
"""Which stage's weights are served, and from which folder of the zoo."""
