"""What the torch platforms share: model runner, layers, models, sampler, attention contract."""
