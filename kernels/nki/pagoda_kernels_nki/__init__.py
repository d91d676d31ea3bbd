"""Paged attention for AWS Trainium 2 and later in NKI.  ``limits`` can be read without NKI."""
