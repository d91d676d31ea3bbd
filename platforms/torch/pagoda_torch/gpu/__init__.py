"""GPUs as torch devices: the same for every vendor that torch has streams and events for."""
