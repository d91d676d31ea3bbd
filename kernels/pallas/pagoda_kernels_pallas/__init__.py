"""Paged attention for TPUs in JAX and Pallas; imports neither torch nor torch-xla."""

from pagoda_kernels_pallas.attention import paged_attention
from pagoda_kernels_pallas.layout import row_width, stored_width

__all__ = ["paged_attention", "row_width", "stored_width"]
