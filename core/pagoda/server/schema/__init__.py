"""Requests as pydantic models, which refuse what they do not know; answers as msgspec structs."""
