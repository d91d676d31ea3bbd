#!/usr/bin/env bash
# Every check and test, in a virtual environment of its own.  Extra arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${PAGODA_VENV:-.venv}
python=${PYTHON:-python3}
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv"
fi
export PATH="$PWD/$venv/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
case $venv in /*) export PATH="$venv/bin:$PATH" ;; esac

# The trees themselves, editable: extras would install copies of the siblings.
pip install --quiet --upgrade pip
pip install --quiet -e '.[test]' -e platforms/torch -e kernels/cpu -e platforms/cpu -e platforms/openvino
# Without a GPU their probes can be tested, and their kernels compiled and interpreted.
case $(uname -sm) in "Linux x86_64") pip install --quiet --no-deps triton==3.7.1 ;; esac  # PyTorch 2.13's
pip install --quiet --no-deps -e kernels/triton -e platforms/cuda -e platforms/rocm -e plugins/triton-interpret \
    -e kernels/sycl -e platforms/xpu \
    -e kernels/pallas -e kernels/nki -e platforms/xla -e platforms/tpu -e platforms/neuron

failed=0
ruff check . || failed=1
ruff format --check . || failed=1
mypy || failed=1

# The tests' models are tiny: a second thread would only wait for the first.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# What needs an environment of its own is installed and tested beside the rest, its words kept for the end.
beside=$(mktemp)
set -m  # a process group, to be stopped as a whole
(
    failed=0
    for check in xpu xla triton; do bash "ci/check_$check.sh" || failed=1; done
    exit "$failed"
) > "$beside" 2>&1 &
trap 'kill -- -$! 2> /dev/null || true; rm -f "$beside"' EXIT
set +m

python -m pytest "$@" || failed=1
for platform in reference cpu openvino; do
    python -m pytest -q --pagoda-platform "$platform" || failed=1
done

wait "$!" || failed=1
cat "$beside"
[ "$failed" = 0 ] || echo "check: FAILED, see above"
exit "$failed"
