"""Model families, written once for every torch platform, against ``layers`` and ``ops``."""
