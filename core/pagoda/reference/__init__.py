"""The NumPy platform: the oracle that every backend is compared with."""
