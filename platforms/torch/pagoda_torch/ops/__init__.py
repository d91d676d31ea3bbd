"""Small fused operations by name: a plain version of each, which a platform may replace."""

from pagoda_torch.ops.table import Ops, make_ops

__all__ = ["Ops", "make_ops"]
