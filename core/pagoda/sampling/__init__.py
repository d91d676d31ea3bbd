"""What sampling parameters mean."""
