"""Greedy tokens of many rows: the graph finds, in all its threads, the largest logit of each group
of columns, and the host looks through but one group of each row."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as op

from pagoda.platform.batch import Float32, Int32
from pagoda_openvino.rope import ints

GROUPS = (128, 256, 64, 512, 32)
"""Columns a group: what OpenVINO was measured to be quickest at, the best first."""


def add_largest(graph: ov.Model, vocab_size: int) -> None:
    """Give ``graph`` a second output, ``largest`` float32 [N, groups], where the vocabulary divides
    into groups."""
    size = next((size for size in GROUPS if vocab_size % size == 0), 0)
    if size:
        logits = graph.output("logits").get_node().input_value(0)
        grouped = op.reshape(logits, ints([0, vocab_size // size, size]), True)
        largest = op.reduce_max(grouped, ints([2]), False)
        largest.output(0).get_tensor().set_names({"largest"})
        graph.add_results([op.result(largest)])


def pick(logits: Float32, largest: Float32 | None = None) -> Int32:
    """[N] the column of each row's largest logit, the first of equals."""
    if largest is None:
        return np.asarray(logits.argmax(axis=1), np.int32)
    num_rows, num_groups = largest.shape
    size, group = logits.shape[1] // num_groups, largest.argmax(axis=1)
    grouped = logits.reshape(num_rows, num_groups, size)
    within = grouped[np.arange(num_rows), group].argmax(axis=1)
    return np.asarray(group * size + within, np.int32)
