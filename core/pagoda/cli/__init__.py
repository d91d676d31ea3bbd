"""The pagoda command."""
