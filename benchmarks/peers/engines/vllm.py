"""vLLM without HTTP: `python -m benchmarks.peers.engines.vllm FOLDER DTYPE`."""

import sys
from typing import Any

from vllm import LLM, SamplingParams

from benchmarks.peers.engines.lines import answer, in_batches


def main(folder: str, dtype: str) -> None:
    llm = LLM(
        folder,
        dtype=dtype,
        max_model_len=1024,
        enable_prefix_caching=False,
        max_num_seqs=32,
        max_num_batched_tokens=4096,
    )

    def generate(command: dict[str, Any]) -> None:
        params = SamplingParams(temperature=0, max_tokens=command["new"], ignore_eos=True, detokenize=False)
        for batch in in_batches(command["generate"], command["batch"]):
            prompts = [{"prompt_token_ids": ids} for ids in batch]
            outputs = llm.generate(prompts, params, use_tqdm=False)
            assert all(len(one.outputs[0].token_ids) == command["new"] for one in outputs)

    answer({"generate": generate})


if __name__ == "__main__":
    main(*sys.argv[1:])
