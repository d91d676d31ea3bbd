#!/usr/bin/env bash
# The XPU platform on the OpenCL device that Intel's wheels make of the CPU: SYCL kernels compiled and
# executed, and the conformance kit's quick level.  In a virtual environment of its own, for the
# wheels are 0.5 GB and have a licence of their own; kept outside of the checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/pagoda
venv=${PAGODA_XPU_VENV:-$cache/check-xpu-venv}
python=${PYTHON:-python3}
if [ "$(uname -sm)" != "Linux x86_64" ] || ! command -v "${CXX:-g++}" > /dev/null; then
    echo "check_xpu: SKIPPED: needs Linux on x86-64 and g++"
    exit 0
fi
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv"
fi
if ! "$venv/bin/pip" install --quiet './kernels/sycl[cpu-device]'; then
    echo "check_xpu: SKIPPED: Intel's wheels (intel-sycl-rt and its companions) cannot be fetched"
    exit 0
fi
"$venv/bin/pip" install --quiet 'hypothesis>=6.100' 'pytest>=8.2' \
    -e . -e platforms/torch -e kernels/triton -e kernels/sycl -e platforms/xpu

# Debian's compiler for Intel GPUs, unpacked and not installed: kernels as machine code of PVC and DG2.
export OCLOC_ROOT=$cache/ocloc
if [ ! -x "$OCLOC_ROOT/usr/bin/ocloc" ] && command -v apt-get > /dev/null; then
    mkdir -p "$OCLOC_ROOT"
    (
        cd "$OCLOC_ROOT"
        apt-get download -qq intel-opencl-icd libigc1 libigdfcl1 libopencl-clang14 libllvm14 \
            libclang-cpp14 libllvmspirvlib14 libigdgmm12 > /dev/null 2>&1
        for package in ./*.deb; do dpkg -x "$package" .; done
        rm ./*.deb
    ) || echo "check_xpu: no ocloc can be fetched: no machine code of GPUs is made"
fi

export PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PAGODA_XPU_SYCL_CPU=1
"$venv/bin/python" -m pytest -q kernels/sycl platforms/xpu "$@"
"$venv/bin/python" -m pytest -q --pagoda-platform xpu
