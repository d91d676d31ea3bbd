"""GPU kernels in SYCL, compiled at run time for the device at hand.

Imports torch, nothing of Pagoda's; needs g++ once, for the host's side of launching."""
