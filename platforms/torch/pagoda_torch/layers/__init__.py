"""The parts models are built from: plain classes that hold tensors and call the op table."""
