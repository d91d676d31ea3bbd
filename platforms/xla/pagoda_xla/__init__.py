"""What the XLA platforms share: a model runner whose steps have a few static shapes."""
