"""``pagoda new-backend``: a new platform's distribution, written from ``files/``."""
