"""The shapes that steps on Neuron have.

The compiler takes minutes for a graph, so there are few of them.  Attention covers the whole of a
bucket's context, whatever a request has of it, so block tables come in several widths."""

from pagoda_xla.buckets import BucketRule

RULE = BucketRule(
    rows=(1, 8, 32),
    tokens=(128, 512),
    tile=16,  # by 8 query heads a key head: the 128 rows of the on-chip memories
    contexts=(1024, 4096),
    max_context=1 << 15,
)
