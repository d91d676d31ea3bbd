"""A device that runs the GPU kernels in Triton's interpreter; for tests."""
