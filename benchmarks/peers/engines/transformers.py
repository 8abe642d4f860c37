"""`transformers`, static batches, sdpa: `python -m benchmarks.peers.engines.transformers FOLDER DTYPE`."""

import sys
from typing import Any

import torch
import transformers

from benchmarks.peers.engines.lines import THREADS, answer, by_length, in_batches, padded


@torch.inference_mode()
def main(folder: str, dtype: str) -> None:
    torch.set_num_threads(THREADS)
    config = transformers.AutoConfig.from_pretrained(folder)
    kinds = {
        "ForCausalLM": transformers.AutoModelForCausalLM,
        "ForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
        "MTModel": transformers.AutoModelForSeq2SeqLM,
        "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    }
    name = config.architectures[0]
    kind = next((kind for end, kind in kinds.items() if name.endswith(end)), transformers.AutoModel)
    model = kind.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()

    def generate(command: dict[str, Any]) -> None:
        new = command["new"]
        for batch in in_batches(command["generate"], command["batch"]):
            ids, mask = (torch.tensor(rows) for rows in padded(batch))
            if not config.is_encoder_decoder:
                assert mask.all(), "prompts of a static batch are of one length"
            out = model.generate(
                ids, attention_mask=mask, do_sample=False, num_beams=command["beams"],
                min_new_tokens=new, max_new_tokens=new,
            )  # fmt: skip
            assert out.shape[1] == new + (1 if config.is_encoder_decoder else ids.shape[1])

    def encode(command: dict[str, Any]) -> None:
        for batch in by_length(command["encode"]):
            ids, mask = (torch.tensor(rows) for rows in padded(batch))
            out = model(input_ids=ids, attention_mask=mask)
            if not hasattr(out, "logits"):
                weights = mask[..., None].to(out.last_hidden_state.dtype)
                (out.last_hidden_state * weights).sum(1) / weights.sum(1)

    answer({"generate": generate, "encode": encode})


if __name__ == "__main__":
    main(*sys.argv[1:])
