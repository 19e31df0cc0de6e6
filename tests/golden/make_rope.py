#!/usr/bin/env python3
"""Reference cosines and sines of every kind of rotary positions, at short and at long positions, from transformers in float64.

    pip install torch transformers
    python tests/golden/make_rope.py        # writes tests/fixtures/golden/rope.json
"""
import json
import os

import torch
import transformers

from make_from_transformers import Double
from make_families import HERE

SIZES = dict(hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=16, vocab_size=32, max_position_embeddings=131072, bos_token_id=1, eos_token_id=2, pad_token_id=0)
YARN = dict(rope_type="yarn", factor=16.0, original_max_position_embeddings=16384)
FULL_AND_LOCAL = dict(num_hidden_layers=4, sliding_window=512, layer_types=["sliding_attention", "full_attention"] * 2)

# name: keys beside SIZES, the layer type if layers differ
CASES = {
    "default": (dict(model_type="llama", rope_theta=5e5), None),
    "linear": (dict(model_type="llama", rope_theta=1e4, rope_scaling=dict(type="linear", factor=8.0)), None),
    "dynamic within the model's positions": (
        dict(model_type="llama", rope_theta=1e4, rope_scaling=dict(rope_type="dynamic", factor=4.0)), None),
    "llama3": (dict(model_type="llama", rope_theta=5e5, rope_scaling=dict(
        rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=8192)), None),
    "yarn of Qwen 2.5": (dict(model_type="qwen2", rope_theta=1e6, rope_scaling=dict(
        type="yarn", factor=4.0, original_max_position_embeddings=32768)), None),
    "yarn without whole indices": (
        dict(model_type="qwen3", rope_theta=1e6, rope_scaling=dict(YARN, truncate=False, attention_factor=0.9)), None),
    "yarn of Ministral 3": (dict(model_type="ministral3", rope_parameters=dict(
        YARN, rope_theta=1e6, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
        llama_4_scaling_beta=0.1)), None),
    "yarn with one multiplier": (
        dict(model_type="arcee", hidden_act="relu2", rope_theta=1e4, rope_scaling=dict(YARN, mscale=1.0)), None),
    "alpha of HunYuan": (dict(model_type="hunyuan_v1_dense", rope_theta=1e4, rope_scaling=dict(
        type="dynamic", alpha=1000.0, factor=1.0)), None),
    "longrope of a part": (dict(
        model_type="phi3", num_key_value_heads=4, rope_theta=1e4, partial_rotary_factor=0.75,
        original_max_position_embeddings=4096, rope_scaling=dict(
            type="longrope", short_factor=[1.0, 1.1, 1.2, 1.5, 1.7, 2.0], long_factor=[1.0, 1.5, 4.0, 9.0, 30.0, 60.0])),
        None),
    "a part in neighbours": (dict(model_type="glm4", rope_theta=1e4, partial_rotary_factor=0.5), None),
    "full layers of Gemma 3": (dict(FULL_AND_LOCAL, model_type="gemma3_text", rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        sliding_attention=dict(rope_type="default", rope_theta=1e4))), "full_attention"),
    "local layers of Gemma 3": (dict(FULL_AND_LOCAL, model_type="gemma3_text", rope_theta=1e6, rope_local_base_freq=1e4,
                                     rope_scaling=dict(rope_type="linear", factor=8.0)), "sliding_attention"),
    "full layers of OLMo 3": (dict(FULL_AND_LOCAL, model_type="olmo3", rope_theta=5e5,
                                   rope_scaling=dict(YARN, factor=8.0, attention_factor=1.2079)), "full_attention"),
    "local layers of OLMo 3": (dict(FULL_AND_LOCAL, model_type="olmo3", rope_theta=5e5,
                                    rope_scaling=dict(YARN, factor=8.0, attention_factor=1.2079)), "sliding_attention"),
}
# of short sequences and of such that are longer than any pretraining here; the last one is the sequence's
LENGTHS = {"short": [0, 1, 17, 4095], "long": [0, 3, 4096, 40000, 131071]}


def main():
    cases = []
    for name, (keys, layer) in CASES.items():
        config = dict(SIZES, **keys)
        own = transformers.AutoConfig.for_model(**config)
        with Double():
            rope = type(transformers.AutoModelForCausalLM.from_config(own).model.rotary_emb)(own)
            angles = {}
            for length, positions in LENGTHS.items():
                args = (torch.zeros(1, dtype=torch.float64), torch.tensor([positions]))
                cos, sin = rope(*args, layer) if layer else rope(*args)
                # both halves have the same angles
                step = slice(0, cos.shape[-1] // 2)
                angles[length] = dict(positions=positions, cos=cos[0, :, step].tolist(), sin=sin[0, :, step].tolist())
        print(name, len(angles["short"]["cos"][0]), "pairs")
        cases.append(dict(name=name, layer=layer, config=config, **angles))
    with open(os.path.join(HERE, "rope.json"), "w") as fh:
        json.dump(dict(transformers=transformers.__version__, cases=cases), fh)


if __name__ == "__main__":
    main()
