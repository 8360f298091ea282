#!/usr/bin/env bash
# Gradescope runs this once, when it builds the autograder's image: an environment with what the project needs.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
apt-get update
apt-get install --yes --no-install-recommends python3 python3-venv
python3 -m venv "$here/environment"
"$here/environment/bin/python" -m pip install --quiet --extra-index-url https://download.pytorch.org/whl/cpu \
    -r "$here/project/requirements.txt"
