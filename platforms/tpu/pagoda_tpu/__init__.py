"""Pagoda on TPUs."""
