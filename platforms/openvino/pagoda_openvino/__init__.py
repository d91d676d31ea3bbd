"""Pagoda on OpenVINO: a model is one compiled graph, a step one inference of it."""
