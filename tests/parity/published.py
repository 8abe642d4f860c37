"""Checkpoints as `transformers` writes them, and its answers: what our Transformer is held against."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from model.fit import compare_names
from model.loading import load_model, save_model
from model.transformer import Transformer

TOLERANCE = 1e-4


def build(
    name: str, config: dict[str, Any], folder: Path, is_tied: bool = True
) -> tuple[Any, Transformer, Any]:
    """Theirs, ours read from it, and theirs read from what ours wrote.

    Norms and biases are not at their defaults; tables that nobody trains are. Not `is_tied`: with an
    output table of its own whatever the config says.
    """
    torch.manual_seed(0)
    theirs_class = getattr(hf, name)
    theirs = theirs_class(theirs_class.config_class(**config)).eval()
    if not is_tied:
        theirs.lm_head.weight = nn.Parameter(torch.randn_like(theirs.lm_head.weight))
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.05
    if hasattr(theirs, "final_logits_bias"):
        theirs.final_logits_bias += torch.randn_like(theirs.final_logits_bias)
    theirs.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    save_model(ours, folder / "ours")
    for written in ("theirs", "ours"):
        fit = compare_names(folder / written)
        assert (fit.missing, fit.left_over) == ([], [])
    return theirs, ours, theirs_class.from_pretrained(folder / "ours").eval()


def close(got: Tensor, wanted: Tensor, real: Tensor | None = None) -> None:
    """Equal but for rounding, where a text is `real`."""
    if real is not None:
        got, wanted = got[real], wanted[real]
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


def their_tokens(theirs: Any, prompt: list[int], count: int, **settings: Any) -> list[int]:
    """Greedy, `count` tokens whatever they are, after those that the decoder was given."""
    generated: list[int] = theirs.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        **{"pad_token_id": 0, **settings},
    )[0].tolist()
    return generated
