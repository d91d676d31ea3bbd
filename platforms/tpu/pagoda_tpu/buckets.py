"""The shapes that steps on a TPU have.  Every one is compiled at start-up, so they are few.

Up to some 128 tokens a step takes what reading the weights takes (a v5e computes 240 operations
while it reads a byte), so smaller sizes would save nothing; above, sizes double."""

from pagoda_xla.buckets import BucketRule

RULE = BucketRule(
    rows=(8, 32, 128, 256),  # a float32 register has 8 rows
    tokens=(128, 256, 512, 1024, 2048, 4096),
    tile=16,
)
