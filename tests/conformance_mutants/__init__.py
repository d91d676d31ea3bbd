"""Backends that are wrong in one way each: the conformance kit must catch every one.

All are the NumPy reference platform with one mistake in it, of the kind that real backends make."""
