"""Attention and ops by pagoda-kernels-triton, the same for every platform that has Triton.

Nothing else of this distribution imports it: pagoda-kernels-triton is an extra here, and a
requirement of the platforms that use it."""
