#!/usr/bin/env bash
# TRL 1.16 and verl 0.9.1 for CPUs in a virtual environment of their own (1.9 GB), for the tests against the real
# trainers and examples/train_with_cost.py:
#   tools/install_trainers_cpu.sh FOLDER
# kvsim itself is not installed, only what it needs.
set -euo pipefail
folder=${1:?usage: install_trainers_cpu.sh FOLDER}
python3 -m venv "$folder"
pip=$folder/bin/pip
"$pip" install --quiet 'torch==2.13.0'
# cachetools, fastapi, uvicorn: verl imports them for its tool agent without asking for them; jmespath: TRL parses tool calls with it.
"$pip" install --quiet 'trl==1.16.0' 'verl==0.9.1' cachetools fastapi uvicorn jmespath 'msgspec>=0.18' 'typer>=0.12' 'pytest>=8'
