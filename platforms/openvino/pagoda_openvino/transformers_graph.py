"""Any other decoder as a graph: transformers' own model, traced once, with OpenVINO's paged
attention where transformers' attention interface leads.

Traced and compiled from float32 whatever the checkpoint stores: OpenVINO recognises the forms it
fuses in that dtype alone.  Every sequence has length 1, as in the graph written down here."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op
from openvino.frontend.pytorch import ConversionExtension
from transformers import AutoConfig, AutoModelForCausalLM

from pagoda.platform import BadCheckpoint, ModelInfo, RunnerConfig, UnsupportedFeature
from pagoda_openvino.blocking import NO_LIMIT
from pagoda_openvino.paged_attention import paged_attention
from pagoda_openvino.traced_model import OP, STEP, TracedModel, settle_rope
from pagoda_openvino.transformers_probe import PAGED, probe, refusal


class TransformersGraph:
    """Implements ``ModelGraph``; reads config.json, and no weights, when it is made."""

    def __init__(self, model: ModelInfo, config: RunnerConfig):
        if config.quantization is not None:
            raise refusal(model.architecture, f"--quantization {config.quantization}")
        self.model, self.config = model, config
        self.theirs = self._read_config()
        with torch.device("meta"):
            empty = self._construct(experts_implementation="batched_mm")
        if type(empty).__name__ != model.architecture:
            raise refusal(model.architecture, f"its config is a {type(empty).__name__}'s there")
        self.layers = probe(empty.eval(), max(config.max_model_len, model.max_len))
        self.held: Any = None  # the torch model, whose memory the constants may share

    def build(self) -> ov.Model:
        model = self._load().eval()
        settle_rope(model, self.config.max_model_len)
        self.held = traced = TracedModel(model, len(self.layers))
        extension = ConversionExtension(OP, self._convert)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing: once, on purpose
                graph = ov.convert_model(
                    traced, example_input=traced.example(), extension=[extension]
                )
        except Exception as error:  # of tracing, or of an operation OpenVINO has no word for
            raise refusal(
                self.model.architecture, f"OpenVINO cannot convert it ({error!r:.300})"
            ) from error
        self._name_inputs(graph)
        _fold_converts(graph)
        found = graph.outputs[0].get_partial_shape()
        if str(found[-1]) != str(self.model.vocab_size):
            raise refusal(self.model.architecture, f"its logits are {found}")
        return graph

    @property
    def most_tokens(self) -> int:
        return NO_LIMIT

    def hand_back_pages(self) -> None:
        """The weights lie in memory, not in a file."""

    def _read_config(self) -> Any:
        path, trust = self.model.path, self.config.trust_remote_code
        try:
            found = AutoConfig.from_pretrained(path, trust_remote_code=trust, local_files_only=True)
        except Exception as error:  # a config class checks its values in its own ways
            raise BadCheckpoint(
                f"transformers cannot read {path}/config.json ({error!r:.300})",
                self._trust() or "a newer transformers",
            ) from error
        if getattr(found, "quantization_config", None) is not None:
            raise UnsupportedFeature(f"{path} is quantized", "the unquantized checkpoint")
        return found

    def _construct(self, **more: Any) -> Any:
        try:
            return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                self.theirs,
                dtype=torch.float32,
                attn_implementation=PAGED,
                trust_remote_code=self.config.trust_remote_code,
                **more,
            )
        except Exception as error:  # a model's constructor may raise anything
            if PAGED in str(error):
                raise refusal(
                    self.model.architecture,
                    "its attention does not go through transformers' attention interface",
                ) from error
            raise UnsupportedFeature(
                f"transformers cannot build {self.model.architecture} for platform 'openvino'"
                f" ({error!r:.300})",
                self._trust() or "another --device",
            ) from error

    def _load(self) -> Any:
        """The model with its weights: the checkpoint's, or random ones."""
        if self.config.load_format == "dummy":
            torch.manual_seed(self.config.seed)
            return self._construct(experts_implementation="batched_mm")
        path, formats = self.model.path, {"safetensors": True, "pt": False}
        try:
            found: Any = AutoModelForCausalLM.from_pretrained(
                path,
                config=self.theirs,
                dtype=torch.float32,
                attn_implementation=PAGED,
                experts_implementation="batched_mm",
                trust_remote_code=self.config.trust_remote_code,
                local_files_only=True,
                use_safetensors=formats.get(self.config.load_format),
                output_loading_info=True,
            )
        except Exception as error:
            raise BadCheckpoint(f"{path}: transformers cannot load it ({error!r:.300})") from error
        model, told = found
        missing = sorted(told["missing_keys"])
        if missing:
            raise BadCheckpoint(
                f"{path}: {len(missing)} tensors are missing, {missing[0]} first",
                "a complete checkpoint",
            )
        return model

    def _trust(self) -> str:
        brings_code = "auto_map" in self.model.config and not self.config.trust_remote_code
        return "--trust-remote-code, if you trust the code in that folder" if brings_code else ""

    def _convert(self, node: Any) -> list[ov.Output]:
        """The traced stand-in as OpenVINO's op."""
        inputs = [node.get_input(index) for index in range(10)]
        heads = self.layers[int(node.get_values_from_const_input(10))]
        step = dict(zip(STEP, inputs[5:], strict=True))
        return [paged_attention(inputs[:3], inputs[3:5], step, heads)]

    def _name_inputs(self, graph: ov.Model) -> None:
        known = {"token_ids", "positions", "logit_rows", *STEP}
        caches = iter(range(2 * len(self.layers)))
        for node in graph.get_parameters():
            names = known & {*node.output(0).get_names(), node.get_friendly_name()}
            if names:
                name = names.pop()
                node.set_partial_shape(ov.PartialShape([] if name == "max_context_len" else [-1]))
            else:
                index = next(caches)
                name = f"{('key', 'value')[index % 2]}_cache.{index // 2}"
                node.set_partial_shape(ov.PartialShape.dynamic(4))
                node.set_element_type(ov.Type.dynamic)
            node.set_friendly_name(name)
            node.output(0).get_tensor().set_names({name})
        graph.outputs[0].get_tensor().set_names({"logits"})
        graph.validate_nodes_and_infer_types()


def _fold_converts(graph: ov.Model) -> None:
    """The conversion writes -1 as an integer turned to float; OpenVINO recognises RoPE, and keeps
    its angles in float32, only where it is a float."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Convert" or node.get_output_element_type(0) != ov.Type.f32:
            continue
        source = node.input_value(0).get_node()
        integral = source.get_element_type().is_integral()
        if source.get_type_name() == "Constant" and integral and source.data.size <= 64:
            folded = op.constant(source.data.astype(np.float32))
            node.output(0).replace(folded.output(0))
    graph.validate_nodes_and_infer_types()
