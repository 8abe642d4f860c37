"""An engine in a process of its own, and the files it needs."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.config import use_large_pages
from benchmarks.line_process import ROOT, LineProcess
from benchmarks.peers.shapes import BERT, QWEN, write

MINILM = "minilm"
VLLM_BOUNDS = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "0-1"}
"""GiB of cache, and its threads' cores; without the first it wants nearly all memory."""


@dataclass(frozen=True)
class Peers:
    """The folder that install.sh filled; checkpoints and what is made of them lie in its `models`."""

    folder: Path

    def checkpoint(self, name: str) -> Path:
        return ROOT / "model" / "zoo" / MINILM if name == MINILM else write(name, self.folder / "models")

    def python(self, environment: str) -> Path:
        return self.folder / environment / "bin" / "python"

    def llama(self, program: str) -> Path:
        return self.folder / "llama.cpp" / "B" / "bin" / program

    def made(self, kind: str, name: str) -> Path:
        """What `prepare` makes of a checkpoint; it is made when first asked for."""
        out = self.folder / "models" / f"{name}.{kind}"
        if not out.exists():
            command = [str(self.python("libraries")), "-m", "benchmarks.peers.prepare", kind]
            command += [str(self.checkpoint(name)), str(out)]
            subprocess.run(
                command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return out

    def gguf(self, precision: str) -> Path:
        """The decoder for llama.cpp, quantized to Q8_0, Q4_0, BF16."""
        out = self.folder / "models" / f"{QWEN}.{precision}.gguf"
        if not out.exists():
            command = [str(self.llama("llama-quantize")), str(self.made("gguf", QWEN)), str(out), precision]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return out

    def quartet(self, name: str, dtype: str, quantization: str = "none") -> "Engine":
        output = "class" if name == BERT else "embedding"
        arguments = [str(self.checkpoint(name)), dtype, quantization, output]
        environ: dict[str, str] = {}
        use_large_pages(environ)  # as `quartet serve` has its engine
        return Engine(Path(sys.executable), "quartet", arguments, environ)

    def vllm(self) -> "Engine":
        return Engine(self.python("vllm"), "vllm", [str(self.checkpoint(QWEN)), "bfloat16"], VLLM_BOUNDS)

    def ctranslate2(self, name: str, compute_type: str) -> "Engine":
        end = {"marian": "w0"}.get(name, "w1")
        return Engine(
            self.python("libraries"), "ctranslate2", [str(self.made("ctranslate2", name)), compute_type, end]
        )

    def openvino(self, name: str) -> "Engine":
        arguments = [
            str(self.made("onnx", name) / "fused.onnx"),
            "bf16",
            "logits" if name == BERT else "mean",
        ]
        return Engine(self.python("libraries"), "openvino", arguments)

    def onnxruntime(self, name: str) -> "Engine":
        arguments = [str(self.made("onnx", name) / "int8.onnx"), "logits" if name == BERT else "mean"]
        return Engine(self.python("libraries"), "onnxruntime", arguments)


class Engine(LineProcess):
    """A running module of `engines`."""

    def __init__(
        self, python: Path, module: str, arguments: Sequence[str], environ: Mapping[str, str] | None = None
    ) -> None:
        super().__init__([str(python), "-m", f"benchmarks.peers.engines.{module}", *arguments], environ)

    def generate(self, prompts: Sequence[Sequence[int]], new: int, batch: int, beams: int = 1) -> float:
        """Seconds for `new` tokens after each prompt, `batch` prompts at a time."""
        return self.ask({"generate": prompts, "new": new, "batch": batch, "beams": beams})

    def encode(self, texts: Sequence[Sequence[int]]) -> float:
        """Seconds for a vector of each text."""
        return self.ask({"encode": texts})
