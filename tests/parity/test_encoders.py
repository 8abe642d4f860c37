"""RoBERTa, XLM-RoBERTa, DistilBERT and DeBERTa against `transformers`: every head, both paddings, read and written."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from model.adapters import load_adapter
from model.config import CheckpointError
from model.families import FAMILIES, read_config
from model.layers.disentangled import RelativePositions
from model.loading import load_model, save_model
from model.transformer import Transformer
from tests.parity.published import build, close

SHAPE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}
SMALL = SHAPE | {"intermediate_size": 48, "num_attention_heads": 4}
ODD = SHAPE | {"intermediate_size": 72, "num_attention_heads": 2, "tie_word_embeddings": False}
ROBERTAS = [SMALL | {"type_vocab_size": 1}, ODD | {"pad_token_id": 3, "layer_norm_eps": 1e-5}]
DISTIL: dict[str, Any] = {"vocab_size": 100, "dim": 32, "n_layers": 2, "max_position_embeddings": 40}
DISTIL |= {"initializer_range": 0.2}
DISTILS = [
    DISTIL | {"hidden_dim": 48, "n_heads": 4},
    DISTIL
    | {
        "hidden_dim": 72,
        "n_heads": 2,
        "activation": "relu",
        "sinusoidal_pos_embds": True,
        "tie_word_embeddings": False,
    },
]
V3 = SMALL | {
    "relative_attention": True,
    "position_biased_input": False,
    "position_buckets": 8,
    "pos_att_type": "p2c|c2p",
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "legacy": False,
}
DEBERTAS = [
    V3,
    # Texts are longer than the positions that are told apart.
    ODD
    | {
        "relative_attention": True,
        "max_relative_positions": 6,
        "pos_att_type": ["c2p"],
        "type_vocab_size": 2,
        "pooler_hidden_act": "tanh",
    },
    SMALL
    | {
        "relative_attention": True,
        "position_buckets": 4,
        "max_relative_positions": 20,
        "pos_att_type": ["p2c"],
        "hidden_act": "gelu_new",
    },
    ODD | {"relative_attention": False, "legacy": False},
]
HEADS = [
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
]
CASES = [
    *[(stem, config) for stem in ("Roberta", "XLMRoberta") for config in ROBERTAS],
    *[("DistilBert", config) for config in DISTILS],
    *[("DebertaV2", config) for config in DEBERTAS],
]
CASE_IDS = [f"{stem}-{i}" for i, (stem, _) in enumerate(CASES)]
# A text's class is read from the first place of its row, which must not be padding.
LEFT = [(name, "left") for name in HEADS if name != "ForSequenceClassification"]


def padded(side: str, pad: int) -> tuple[Tensor, Tensor]:
    """Three texts of different lengths."""
    torch.manual_seed(1)
    mask = torch.arange(14) < torch.tensor([[14], [9], [1]])
    ids = torch.randint(4, 100, (3, 14)).where(mask, pad)
    return (ids.flip(1), mask.flip(1)) if side == "left" else (ids, mask)


def heads_agree(ours: Transformer, name: str, hidden: Tensor, theirs: Any, real: Tensor) -> None:
    """Our head over our hidden states against the output of theirs."""
    if name == "Model":
        close(hidden, theirs.last_hidden_state, real)
    elif name == "ForMaskedLM":
        close(ours.masked_lm(hidden), theirs.logits, real)
    elif name == "ForSequenceClassification":
        close(ours.classify(hidden[:, 0]), theirs.logits)
    elif name == "ForTokenClassification":
        close(ours.classify_tokens(hidden), theirs.logits, real)
    else:
        close(ours.span(hidden), torch.stack((theirs.start_logits, theirs.end_logits), -1), real)


@pytest.mark.parametrize(("name", "side"), [*((name, "right") for name in HEADS), *LEFT])
@pytest.mark.parametrize(("stem", "config"), CASES, ids=CASE_IDS)
@torch.inference_mode()
def test_heads(name: str, stem: str, config: dict[str, Any], side: str, tmp_path: Path) -> None:
    if name.endswith("Classification"):
        config = config | {"num_labels": 5}
    theirs, ours, again = build(stem + name, config, tmp_path)
    ids, mask = padded(side, theirs.config.pad_token_id)
    num_types = getattr(theirs.config, "type_vocab_size", 0)
    types = torch.randint(max(1, num_types), ids.shape)
    given: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask.long()}
    if stem != "DistilBert":
        given["token_type_ids"] = types
    if "Roberta" not in stem:
        given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    hidden = ours.encode_padded(ids, mask, types)
    for model in (theirs, again):
        heads_agree(ours, name, hidden, model(**given), mask)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining"])
@torch.inference_mode()
def test_an_untied_output_table_adds_its_own_bias(name: str, tmp_path: Path) -> None:
    theirs, ours, again = build(name, ODD, tmp_path)
    ids, mask = padded("right", 0)
    got = ours.masked_lm(ours.encode_padded(ids, mask))
    for model in (theirs, again):
        close(got, model(input_ids=ids, attention_mask=mask.long())[0], mask)


def test_a_head_of_one_label_and_one_of_many_are_read_and_written(tmp_path: Path) -> None:
    for name, changes in (
        ("one", {"num_labels": 1}),
        ("many", {"problem_type": "multi_label_classification"}),
    ):
        _, ours, again = build("RobertaForSequenceClassification", SMALL | changes, tmp_path / name)
        assert (len(ours.config.labels), ours.config.multi_label) == (
            (1, False) if name == "one" else (2, True)
        )
        assert (again.config.num_labels, again.config.problem_type) == (
            len(ours.config.labels),
            changes.get("problem_type"),
        )


@pytest.mark.parametrize(("num_buckets", "longest"), [(8, 40), (5, 30), (256, 512), (0, 16)])
def test_each_distance_has_the_row_that_it_was_trained_with(num_buckets: int, longest: int) -> None:
    """All borders of the buckets, which rounding decides."""
    raw = V3 | {
        "model_type": "deberta-v2",
        "position_buckets": num_buckets,
        "max_relative_positions": longest,
    }
    places = torch.arange(2 * longest)
    states = RelativePositions(FAMILIES["deberta-v2"].read(raw))([(places[None], places)])
    span = num_buckets or longest
    theirs = build_relative_position(places[:, None], places[:, None], num_buckets or -1, longest) + span
    wanted = theirs.clamp(0, 2 * span - 1)
    assert torch.equal(states.rows[0], wanted - wanted.min())
    assert len(states.states) == int(wanted.max() - wanted.min()) + 1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@torch.inference_mode()
def test_an_adapter_of_peft_changes_deberta_s_positions_too(tmp_path: Path) -> None:
    theirs, ours, _ = build("DebertaV2Model", V3, tmp_path)
    settings = peft.LoraConfig(r=4, target_modules=["query_proj", "key_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(theirs, settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    load_adapter(ours, "a", tmp_path / "adapter")
    ids, mask = padded("right", 0)
    wanted = adapted(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    close(ours.encode_padded(ids, mask, adapter="a"), wanted, mask)


@torch.inference_mode()
def test_the_weights_that_deberta_v3_publishes_beside_the_bare_model_are_passed_over(tmp_path: Path) -> None:
    theirs, _, _ = build("DebertaV2ForMaskedLM", V3, tmp_path)
    raw = json.loads((tmp_path / "theirs" / "config.json").read_text())
    del raw["architectures"]
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(raw))
    bare = load_model(tmp_path / "theirs")
    assert bare.config.head == "none"
    ids, mask = padded("right", 0)
    close(bare.encode_padded(ids, mask), theirs.deberta(ids, mask.long()).last_hidden_state, mask)
    save_model(bare, tmp_path / "bare")
    again = hf.DebertaV2Model.from_pretrained(tmp_path / "bare").eval()
    close(bare.encode_padded(ids, mask), again(ids, mask.long()).last_hidden_state, mask)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("roberta", {"is_decoder": True}, "roberta as a decoder"),
        ("roberta", {"architectures": ["RobertaForCausalLM"]}, "unknown architecture 'RobertaForCausalLM'"),
        ("roberta", {"architectures": ["RobertaForAudioClassification"]}, "unknown architecture"),
        ("roberta", {"architectures": ["RobertaForMaskedLM"], "hidden_act": "relu"}, "only gelu"),
        ("xlm-roberta", {"vocab_size": None}, "'vocab_size' is missing"),
        ("distilbert", {}, "'dim' is missing"),
        ("deberta-v2", {"conv_kernel_size": 3}, "convolution"),
        ("deberta-v2", {"embedding_size": 16}, "embedding_size"),
        ("deberta-v2", {"attention_head_size": 5}, "attention_head_size"),
        ("deberta-v2", {"relative_attention": True}, "without a pos_att_type"),
        ("deberta-v2", {"relative_attention": True, "pos_att_type": "p2p"}, "'p2p' is not served"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    model_type: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    raw = SMALL | {"model_type": model_type} | changes
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))
    with pytest.raises(CheckpointError, match=message) as raised:
        read_config(tmp_path)
    assert "\n" not in str(raised.value)
