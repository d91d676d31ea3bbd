"""GPU kernels in portable Triton, and the functions that launch them.

No autotuning, no vendor libraries, no assembly; ``tuning.py`` has the sizes for each
architecture."""
