"""A model of one layer that bitsandbytes has quantised, and what it makes of the weights again: tests/fixtures/nf4-llama.

    pip install bitsandbytes torch safetensors
    python tests/golden/make_nf4.py

Attention is NF4 with double quantisation, the rest of the layer NF4 without; embedding, head and norms are as they were.
`values.safetensors` has the quantised weights as bitsandbytes dequantises them.
"""
import json
import os

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import save_file

HIDDEN, INNER, VOCAB, HEADS, KV_HEADS = 64, 128, 48, 4, 2
OUT = os.path.join(os.path.dirname(__file__), "../fixtures/nf4-llama")

torch.manual_seed(5)
os.makedirs(OUT, exist_ok=True)
kv = HIDDEN // HEADS * KV_HEADS
layer = "model.layers.0."
shapes = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (kv, HIDDEN), "self_attn.v_proj": (kv, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
tensors, values = {}, {}
for name in ("model.embed_tokens", "lm_head"):
    tensors[f"{name}.weight"] = torch.randn(VOCAB, HIDDEN) * 0.5
for name in ("model.norm", layer + "input_layernorm", layer + "post_attention_layernorm"):
    tensors[f"{name}.weight"] = torch.rand(HIDDEN) + 0.5
for module, shape in shapes.items():
    name = f"{layer}{module}.weight"
    weight = torch.randn(shape) * torch.rand(shape[0], 1) * 0.2
    packed, state = quantize_4bit(weight, blocksize=64, compress_statistics="attn" in module, quant_type="nf4")
    tensors[name] = packed
    for key, value in state.as_dict(packed=True).items():
        tensors[f"{name}.{key}"] = value
    values[name] = dequantize_4bit(packed, state)
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
    "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": None,
    "quantization_config": {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8",
    },
}
with open(os.path.join(OUT, "config.json"), "w") as file:
    json.dump(config, file, indent=1)
save_file(tensors, os.path.join(OUT, "model.safetensors"))
save_file(values, os.path.join(OUT, "values.safetensors"))
