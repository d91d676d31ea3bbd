"""A checkpoint as OpenVINO GenAI's pipelines want it: exported by optimum-intel, weights rounded by
nncf as pagoda-openvino rounds them, tokenizer beside it.  Runs in the peer's environment."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import nncf
import openvino as ov
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer

ROUNDINGS = {
    "stored": None,
    "int8": {"mode": nncf.CompressWeightsMode.INT8_SYM},
    # Embedding and output matrix stay int8, as they do in ``--quantization int4``.
    "int4": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": 128, "ratio": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the checkpoint")
    parser.add_argument("out", type=Path, help="folder to put stored, int8 and int4 into")
    args = parser.parse_args()
    exported = OVModelForCausalLM.from_pretrained(
        args.model, export=True, compile=False, load_in_8bit=False
    )
    tokenizers = convert_tokenizer(AutoTokenizer.from_pretrained(args.model), with_detokenizer=True)
    whole = args.out / "stored"
    write(exported.model, whole, tokenizers, args.model)
    for name, rounding in ROUNDINGS.items():
        if rounding is not None:
            model = ov.Core().read_model(whole / "openvino_model.xml")
            write(nncf.compress_weights(model, **rounding), args.out / name, tokenizers, args.model)


def write(model: ov.Model, folder: Path, tokenizers: tuple[ov.Model, ...], source: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=False)
    for name, found in zip(("tokenizer", "detokenizer"), tokenizers, strict=True):
        ov.save_model(found, folder / f"openvino_{name}.xml")
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        if (source / name).exists():
            shutil.copy(source / name, folder)


if __name__ == "__main__":
    main()
