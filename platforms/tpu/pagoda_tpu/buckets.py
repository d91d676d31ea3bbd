"""The shapes that steps on a TPU have.  Every one is a compile at start-up: few, growing by
doubling, so that padding at most doubles a step."""

from pagoda_xla.buckets import BucketRule

RULE = BucketRule(
    rows=(8, 16, 32, 64, 128, 256),  # a float32 register has 8 rows
    tokens=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    tile=16,
)
