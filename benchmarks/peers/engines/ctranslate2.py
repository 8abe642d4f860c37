"""CTranslate2 on a converted folder: `python -m benchmarks.peers.engines.ctranslate2 FOLDER COMPUTE_TYPE END`.

END is the token that closes a source.
"""

import sys
from typing import Any

import ctranslate2

from benchmarks.peers.engines.lines import THREADS, answer, in_batches


def main(folder: str, compute_type: str, end: str) -> None:
    translator = ctranslate2.Translator(
        folder, device="cpu", compute_type=compute_type, intra_threads=THREADS
    )

    def generate(command: dict[str, Any]) -> None:
        new = command["new"]
        for batch in in_batches(command["generate"], command["batch"]):
            sources = [[f"w{number}" for number in ids[:-1]] + [end] for ids in batch]
            results = translator.translate_batch(
                sources,
                beam_size=command["beams"],
                max_decoding_length=new,
                min_decoding_length=new,
                max_batch_size=0,
            )
            assert all(len(result.hypotheses[0]) == new for result in results)

    answer({"generate": generate})


if __name__ == "__main__":
    main(*sys.argv[1:])
