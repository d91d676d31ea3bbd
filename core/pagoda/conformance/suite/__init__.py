"""The kit's tests, one file a subject; fixtures are in ``pagoda.conformance.session``."""
