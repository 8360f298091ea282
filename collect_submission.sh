#!/usr/bin/env bash
# Collect the submission: assignment_3_submission.zip beside this file. --code-only leaves out report and notebooks.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=$(command -v python3 || command -v python || echo python3)
exec "$python" "$root/collect_submission.py" "$@"
