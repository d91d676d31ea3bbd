#!/usr/bin/env bash
# The GPU kernels without a GPU, in Triton's interpreter: alone, planted bugs among them, and under
# the whole engine.  A process of its own, for Triton either interprets or compiles.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("triton"))'; then
    echo "check_triton: SKIPPED: Triton is not installed (it is for Linux on x86-64)"
    exit 0
fi
export PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TRITON_INTERPRET=1
python -m pytest -q kernels/triton plugins/triton-interpret platforms/cuda/tests/test_steps.py "$@"
