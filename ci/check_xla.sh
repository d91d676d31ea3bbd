#!/usr/bin/env bash
# The TPU and Neuron platforms where XLA runs on the CPU: their kernels and graphs executed, the TPU's
# compiled by libtpu ahead of time, and the conformance kit's quick level.  torch-xla ended with
# torch 2.9, so all this has a virtual environment of its own, 8 GB, kept outside of the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

pins=torch2.9.0-xla2.9.0-jax0.7.1
venv=${PAGODA_XLA_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/pagoda-xla/$pins}
python=${PAGODA_XLA_PYTHON:-$(command -v python3.11 || true)}
needed_gb=12 minutes=${PAGODA_XLA_MINUTES:-60}

skip() {
    echo "check_xla: SKIPPED: $1"
    exit 0
}

if [ ! -f "$venv/.complete" ]; then
    [ "$(uname -sm)" = "Linux x86_64" ] || skip "torch-xla has wheels for Linux on x86-64 only"
    [ -n "$python" ] || skip "no python3.11, which torch-xla's wheel is for (PAGODA_XLA_PYTHON names one)"
    mkdir -p "$(dirname "$venv")"
    free_gb=$(df -Pk "$(dirname "$venv")" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free_gb" -ge "$needed_gb" ] || skip "$free_gb GB free for $venv, $needed_gb are needed"
    rm -rf "$venv"
    "$python" -m venv "$venv" || skip "$python makes no virtual environments"
    "$venv/bin/pip" install --quiet --no-cache-dir torch==2.9.0 'torch-xla[tpu,pallas]==2.9.0' \
        numpy==2.4.6 scipy==1.17.1 flatbuffers hypothesis pytest pytest-timeout \
        || { rm -rf "$venv"; skip "torch 2.9.0 and torch-xla 2.9.0 cannot be fetched"; }
    touch "$venv/.complete"
fi
"$venv/bin/pip" install --quiet -e . -e platforms/torch
"$venv/bin/pip" install --quiet --no-deps \
    -e kernels/pallas -e kernels/nki -e platforms/xla -e platforms/tpu -e platforms/neuron

# libtpu must neither ask a cloud where it is nor mind a second process that compiles.  The last line
# has XLA compile in a third of the time.  One process, one number of devices: whoever starts torch-xla first.
export PJRT_DEVICE=CPU CPU_NUM_DEVICES=1 JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 ALLOW_MULTIPLE_LIBTPU_LOAD=1 \
    TPU_ACCELERATOR_TYPE=v5litepod-4 TPU_WORKER_HOSTNAMES=localhost \
    PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
    XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

SECONDS=0
check() {
    timeout $((minutes * 60 - SECONDS)) "$venv/bin/python" -m pytest -q --timeout=900 "$@" \
        || { echo "check_xla: FAILED after $SECONDS s (the limit is $minutes minutes): $*"; exit 1; }
}

check kernels/pallas kernels/nki platforms/xla platforms/tpu
check platforms/neuron  # torch-xla counts what falls back to the host by process
PAGODA_TPU_EMULATE=1 check --pagoda-platform tpu
PAGODA_TPU_EMULATE=2 check --pagoda-platform tpu -k test_two_devices
PAGODA_NEURON_EMULATE=1 check --pagoda-platform neuron
