"""Random blocks of each GGUF type and what Python's gguf makes of them: tests/fixtures/blocks.safetensors.

    pip install gguf safetensors
    python tests/golden/make_blocks.py

The bytes are random, but for the floats of a block: those are random and finite. `<type>` is uint8 [blocks, bytes a block],
`<type>.values` float32 [blocks, elements a block].
"""
import os

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

# types, and where in a block their f16 lie
TYPES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0], "MXFP4": [],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0],
}
BLOCKS = 4

rng = np.random.default_rng(17)
out = {}
for name, halves in TYPES.items():
    kind = GGMLQuantizationType[name]
    _, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in halves:
        blocks[:, at:at + 2] = (rng.standard_normal(BLOCKS) * 0.1).astype(np.float16).view(np.uint8).reshape(BLOCKS, 2)
    if name == "MXFP4":  # exponents of sizes that f32 and a sum can hold, and the least two
        blocks[:, 0] = [0, 1, 120, 130]
    out[name] = blocks
    out[f"{name}.values"] = dequantize(blocks, kind).astype(np.float32).reshape(BLOCKS, -1)
save_file(out, os.path.join(os.path.dirname(__file__), "../fixtures/blocks.safetensors"))
