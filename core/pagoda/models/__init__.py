"""Model folders: config.json and weights as raw tensors, no torch."""
