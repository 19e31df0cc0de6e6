#!/usr/bin/env python3
"""Writes the adapters of PEFT that tests read, and the logits of tiny-llama with each: tests/fixtures/adapters.

    pip install torch transformers peft
    python tests/golden/make_adapters.py

PEFT makes, saves and runs every folder of its own kinds. For the original RoSA code's folder, tests/fixtures/adapter-rosa, the
logits are those of the model with W + S + s·B·A in place of W.
"""

import json
import os
import shutil

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
OUT = os.path.join(FIXTURES, "adapters")
TOKENS = 16


def model():
    folder = os.path.join(FIXTURES, "golden", "tiny-llama")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def configs():
    """By the folder's name: the configuration, and the type of the file's numbers."""
    two = ["q_proj", "down_proj"]
    yield "supertuning", peft.SupertuningConfig(target_modules=two, sparsity=0.98, r=2, lora_alpha=5, init_weights=False), torch.float32
    yield "supertuning-sparse", peft.SupertuningConfig(target_modules=two, sparsity=0.97, select_top=False, init_weights=False), torch.float32
    patterns = {"rank_pattern": {"layers.1.self_attn.q_proj": 3}, "alpha_pattern": {"down_proj": 7}}
    yield "lora-bf16", peft.LoraConfig(target_modules=two, r=2, lora_alpha=6, use_rslora=True, init_lora_weights=False, **patterns), torch.bfloat16


@torch.no_grad()
def main():
    shutil.rmtree(OUT, ignore_errors=True)
    os.makedirs(OUT)
    torch.manual_seed(18)
    ids = torch.randint(3, 300, (1, TOKENS))
    tensors = {"input_ids": ids.int()}
    for name, config, dtype in configs():
        wrapped = peft.get_peft_model(model(), config)
        for key, value in wrapped.named_parameters():
            if "supertuning_" in key or "lora_" in key:
                value.data = (value.data * 0.3).to(dtype).float()
        folder = os.path.join(OUT, name)
        wrapped.save_pretrained(folder)
        os.remove(os.path.join(folder, "README.md"))
        file = os.path.join(folder, "adapter_model.safetensors")
        saved = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(saved, file, metadata={"format": "pt"})
        path = os.path.join(folder, "adapter_config.json")
        with open(path, encoding="utf-8") as f:
            text = json.load(f)
        text["base_model_name_or_path"] = "tiny-llama"  # not where it lay
        with open(path, "w", encoding="utf-8") as f:
            json.dump(text, f, indent=2)
        again = peft.PeftModel.from_pretrained(model(), folder).eval()
        tensors[name] = again(ids).logits[0].contiguous()

    base, rosa = model(), os.path.join(FIXTURES, "adapter-rosa")
    with open(os.path.join(rosa, "adapter_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    parts = load_file(os.path.join(rosa, "adapter_model.safetensors"))
    for key in [k for k in parts if k.endswith(".rosa_A.weight")]:
        prefix = key.removesuffix(".rosa_A.weight")
        weight = base.get_submodule(prefix.removeprefix("base_model.model.")).weight
        part = {end: parts[f"{prefix}.rosa_{end}"] for end in ["A.weight", "B.weight", "spa.values", "spa.row_offs", "spa.col_idx"]}
        low_rank = part["B.weight"].double() @ part["A.weight"].double() * (config["lora_alpha"] / config["r"])
        rows = torch.repeat_interleave(torch.arange(len(weight)), part["spa.row_offs"].diff().long())
        low_rank[rows, part["spa.col_idx"].long()] += part["spa.values"].double()
        weight.data = (weight.double() + low_rank).float()
    tensors["rosa"] = base(ids).logits[0].contiguous()
    tensors["none"] = model()(ids).logits[0].contiguous()
    save_file(tensors, os.path.join(OUT, "logits.safetensors"))
    for name, value in tensors.items():
        if name != "input_ids":
            print(f"{name}: differs from the model alone by up to {(value - tensors['none']).abs().max():.3f}")


if __name__ == "__main__":
    main()
