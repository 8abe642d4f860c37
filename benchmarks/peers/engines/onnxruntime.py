"""onnxruntime on an exported encoder: `python -m benchmarks.peers.engines.onnxruntime FILE.onnx mean|logits`."""

import sys
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.peers.engines.lines import THREADS, answer, by_length, padded


def main(path: str, output: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(command: dict[str, Any]) -> None:
        for batch in by_length(command["encode"]):
            ids, mask = (np.array(rows, np.int64) for rows in padded(batch))
            out = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            if output == "mean":
                weights = mask[..., None].astype(np.float32)
                (out * weights).sum(1) / weights.sum(1)

    answer({"encode": encode})


if __name__ == "__main__":
    main(*sys.argv[1:])
