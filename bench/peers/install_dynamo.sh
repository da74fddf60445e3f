#!/usr/bin/env bash
# Dynamo replay in a virtual environment of its own (0.5 GB): install_dynamo.sh [FOLDER], by default .cache/dynamo.
set -euo pipefail
folder=${1:-$(dirname "$0")/../../.cache/dynamo}
python3 -m venv "$folder"
# Without its dependencies, which are those of a whole serving framework; replay needs only these.
"$folder/bin/pip" install --quiet --no-deps ai-dynamo==1.6.1 ai-dynamo-runtime==1.6.1
"$folder/bin/pip" install --quiet msgspec typing-extensions 'prometheus-client<1' pyzmq tqdm 'pydantic<=2.13.5' uvloop aiohttp pyyaml
