#!/usr/bin/env bash
# Fetch the course's 25 ImageNet photos into this folder: whole, verified by checksum, or not at all.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH=$root exec "$python" -m files.course --fetch
