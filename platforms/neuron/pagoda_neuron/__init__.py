"""Pagoda on AWS Trainium and Inferentia."""
