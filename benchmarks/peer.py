"""`transformers` in a process of its own: spoken to as `peers.engines.lines` says.

    python -m benchmarks.peer generate FOLDER DTYPE        {"batches": [[ids, …], …], "new": [n, …]}
    python -m benchmarks.peer classify BASE ADAPTER DTYPE  {"texts": [text, …], "batch": n}

Static batches, padded to their longest; sdpa attention, two threads, as a careful user would run it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.engines.lines import THREADS, answer

Command = dict[str, Any]


def generation(folder: str, dtype: str) -> Callable[[Command], None]:
    """Left-padded greedy batches, each run to the longest output that one of its members needs."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
    )
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.max_length = None

    def run(command: Command) -> None:
        for prompts, new in zip(command["batches"], command["new"], strict=True):
            longest = max(map(len, prompts))
            ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=0,
            )
            assert out.shape[1] == longest + new

    return run


def classification(base: str, adapter: str, dtype: str) -> Callable[[Command], None]:
    """Texts in the order of arrival, padded batches; the adapter is merged, which is its fastest form."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    config = json.loads((Path(adapter) / "config.json").read_text(encoding="utf-8"))
    labels = {int(key): value for key, value in config["id2label"].items()}
    trunk = AutoModelForSequenceClassification.from_pretrained(
        base, dtype=getattr(torch, dtype), attn_implementation="sdpa", id2label=labels, num_labels=len(labels)
    )
    model = PeftModel.from_pretrained(trunk, adapter).merge_and_unload().to(getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)

    def run(command: Command) -> None:
        texts, size = command["texts"], command["batch"]
        for start in range(0, len(texts), size):
            batch = tokenizer(
                texts[start : start + size],
                padding=True,
                truncation=True,
                max_length=512,
                return_tensors="pt",
            )
            scores = model(**batch).logits.float().softmax(-1)
            [labels[index] for index in scores.argmax(-1).tolist()]

    return run


@torch.inference_mode()
def main(kind: str, *arguments: str) -> None:
    torch.set_num_threads(THREADS)
    if kind == "generate":
        answer({"batches": generation(*arguments)})
    else:
        answer({"texts": classification(*arguments)})


if __name__ == "__main__":
    main(*sys.argv[1:])
