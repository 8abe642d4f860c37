"""Our engine without HTTP: `python -m benchmarks.peers.engines.quartet FOLDER DTYPE QUANTIZATION|none OUTPUT`.

OUTPUT is what an encoder gives ("embedding" or "class"). No guesses, no prefix cache: the work is random, and repeated.
"""

import sys
from typing import Any

from app.engine.build import build_engine
from app.engine.protocol import EncodeRequest, GenerateRequest, ModelSpec, WorkerConfig
from app.engine.sampling_params import SamplingParams
from benchmarks.peers.engines.lines import THREADS, answer, in_batches


def main(folder: str, dtype: str, quantization: str, output: Any) -> None:
    given: dict[str, Any] = {} if quantization == "none" else {"quantization": quantization}
    config = WorkerConfig(
        models=[ModelSpec("model", folder, **given)],
        device="cpu",
        dtype=dtype,
        threads=THREADS,
        speculation=False,
        prefix_cache=False,
    )
    engine = build_engine(config)

    def finish() -> None:
        while engine.has_work:
            engine.step()

    def generate(command: dict[str, Any]) -> None:
        new = command["new"]
        params = SamplingParams(max_tokens=new, ignore_eos=True, num_beams=command["beams"])
        for batch in in_batches(command["generate"], command["batch"]):
            for number, ids in enumerate(batch):
                engine.add(GenerateRequest(id=number, model="model", prompt_ids=ids, params=params))
            finish()

    def encode(command: dict[str, Any]) -> None:
        for number, ids in enumerate(command["encode"]):
            engine.add(EncodeRequest(id=number, model="model", ids=ids, output=output))
        finish()

    answer({"generate": generate, "encode": encode})


if __name__ == "__main__":
    main(*sys.argv[1:])
