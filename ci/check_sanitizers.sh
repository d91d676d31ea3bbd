#!/usr/bin/env bash
# The CPU kernels' tests on builds with AddressSanitizer and UndefinedBehaviorSanitizer: the levels that
# every x86-64 CPU with AVX2 runs, and the AMX tiles emulated.  Extra arguments go to pytest.
#
# Needs nanobind, cmake, ninja, torch and pytest in the Python that PYTHON names, and GCC.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
build=${PAGODA_SANITIZED:-kernels/cpu/build/sanitized}
site=$build/site

cmake -S kernels/cpu -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 \
    -DPAGODA_SANITIZE=ON -DPAGODA_LEVELS="${PAGODA_LEVELS:-portable;avx2;emulated}" \
    -DPython_EXECUTABLE="$(command -v "$python")" >/dev/null
cmake --build "$build"
cmake --install "$build" --prefix "$site" >/dev/null
cp kernels/cpu/pagoda_kernels_cpu/*.py "$site/pagoda_kernels_cpu/"

# Python itself does not free all it takes, so leaks are not looked for.  An editable install of the
# kernels would be found before these.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$site"
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so)" \
    "$python" - -q -p no:cacheprovider kernels/cpu/tests "$@" <<'END'
import os
import sys

import pytest

sys.meta_path[:] = [x for x in sys.meta_path if not hasattr(x, "known_wheel_files")]
import pagoda_kernels_cpu

site = os.path.abspath(os.environ["PYTHONPATH"])
assert pagoda_kernels_cpu.__file__.startswith(site), pagoda_kernels_cpu.__file__
sys.exit(pytest.main(sys.argv[1:]))
END
