#!/usr/bin/env python3
"""Reference numbers for more model families, from transformers itself: logits, loss and every gradient of tiny random models.

    pip install torch transformers safetensors
    python tests/golden/make_from_transformers.py [name …]     # writes to tests/fixtures/golden

transformers' own class of each family is run in float64, its rotary tables and the parts that it computes in float32 whatever
the weights are included: these are the reference values. It is then run in float32 as it is. Ten times the distance of those
results from the reference, rounded up, is the tolerance in `families.json`. All weights are representable in bfloat16.

`make_families.py` made the numbers of the older families, from a decoder of its own.
"""
import json
import os
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

from make_families import HERE, loss_fn, make_batch, rand_bf16, round_up

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

COMMON = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              vocab_size=300, max_position_embeddings=128, attention_dropout=0.0, hidden_act="silu", rms_norm_eps=1e-5,
              bos_token_id=1, eos_token_id=2, pad_token_id=0, torch_dtype="bfloat16", tie_word_embeddings=True)
VISION = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8, image_size=16,
              patch_size=8, num_channels=3)
YARN = dict(factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=1.0)

# Windows and the lengths of pretraining are shorter than the rows of 24 tokens.
CONFIGS = {
    "smollm3": dict(COMMON, model_type="smollm3", num_hidden_layers=3, no_rope_layers=[1, 0, 1], rope_theta=2e6,
                    use_sliding_window=False, sliding_window=None),
    "phi4mini": dict(COMMON, model_type="phi3", hidden_size=64, num_attention_heads=2, num_key_value_heads=1,
                     partial_rotary_factor=0.75, rope_theta=1e4, max_position_embeddings=64,
                     original_max_position_embeddings=16, sliding_window=262144,
                     rope_scaling=dict(type="longrope", short_factor=[1.0 + 0.05 * i for i in range(12)],
                                       long_factor=[1.0 + 0.5 * i for i in range(12)])),
    "ministral3": dict(
        model_type="mistral3", tie_word_embeddings=False, image_token_index=10, spatial_merge_size=2,
        vision_config=dict(VISION, model_type="pixtral"),
        text_config=dict(COMMON, model_type="ministral3", head_dim=16, tie_word_embeddings=False, sliding_window=None,
                         rope_parameters=dict(YARN, rope_type="yarn", type="yarn", rope_theta=1e6, mscale=1.0,
                                              mscale_all_dim=1.0, llama_4_scaling_beta=0.1))),
    "seed_oss": dict(COMMON, model_type="seed_oss", head_dim=16, attention_bias=True, attention_out_bias=False,
                     residual_dropout=0.0, rope_theta=1e7, rope_scaling=dict(rope_type="default"),
                     tie_word_embeddings=False),
    "granite": dict(COMMON, model_type="granite", rope_theta=1e4, embedding_multiplier=12.0, residual_multiplier=0.22,
                    attention_multiplier=0.0625, logits_scaling=8.0),
    "granite4": dict(COMMON, model_type="granitemoehybrid", num_local_experts=0, num_experts_per_tok=0,
                     shared_intermediate_size=48, mamba_n_heads=4, layer_types=["attention"] * 2, position_embedding_type="rope",
                     rope_theta=1e7, embedding_multiplier=12.0, residual_multiplier=0.263, attention_multiplier=0.0625,
                     logits_scaling=4.0),
    "hunyuan": dict(COMMON, model_type="hunyuan_v1_dense", head_dim=16, rope_theta=1e4,
                    rope_scaling=dict(type="dynamic", alpha=50.0, factor=1.0, beta_fast=32, beta_slow=1, mscale=1.0,
                                      mscale_all_dim=1.0)),
    "arcee": dict(COMMON, model_type="arcee", hidden_act="relu2", head_dim=8, rope_theta=1e4, tie_word_embeddings=False,
                  rope_scaling=dict(YARN, rope_type="yarn", type="yarn", mscale=1.0)),
    "olmo2": dict(COMMON, model_type="olmo2", rope_theta=5e5, tie_word_embeddings=False),
    "olmo3": dict(COMMON, model_type="olmo3", num_hidden_layers=4, rope_theta=5e5, sliding_window=6,
                  rope_scaling=dict(YARN, rope_type="yarn", attention_factor=1.2), tie_word_embeddings=False,
                  layer_types=["sliding_attention"] * 3 + ["full_attention"]),
    "exaone4": dict(COMMON, model_type="exaone4", num_hidden_layers=4, head_dim=16, rope_theta=1e6, sliding_window=6,
                    rope_scaling=dict(rope_type="llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                      original_max_position_embeddings=16),
                    layer_types=["sliding_attention"] * 3 + ["full_attention"]),
    "glm4": dict(COMMON, model_type="glm4", head_dim=16, attention_bias=True, partial_rotary_factor=0.5,
                 rope_theta=1e4, tie_word_embeddings=False),
    "gemma3vision": dict(
        model_type="gemma3", mm_tokens_per_image=1, boi_token_index=290, eoi_token_index=291, image_token_index=292,
        vision_config=dict(VISION, model_type="siglip_vision_model"),
        text_config={k: v for k, v in dict(
            COMMON, model_type="gemma3_text", hidden_size=64, head_dim=16, num_hidden_layers=3, query_pre_attn_scalar=24,
            hidden_activation="gelu_pytorch_tanh", sliding_window=6, rms_norm_eps=1e-6,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                 sliding_attention=dict(rope_type="default", rope_theta=1e4))).items()
            if k != "hidden_act"}),
    "cohere2": dict({k: v for k, v in COMMON.items() if k != "rms_norm_eps"}, model_type="cohere2", num_hidden_layers=4,
                    layer_norm_eps=1e-5, logit_scale=0.25, rope_theta=5e4, sliding_window=6, sliding_window_pattern=4),
    "lfm2": dict({k: v for k, v in COMMON.items() if k not in ("rms_norm_eps", "hidden_act")}, model_type="lfm2",
                 num_hidden_layers=4, norm_eps=1e-5, rope_theta=1e6, conv_L_cache=3, conv_bias=False, block_multiple_of=16,
                 block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
                 layer_types=["conv", "conv", "full_attention", "conv"]),
}


class Double:
    """Makes what asks for float32 get float64."""

    def __enter__(self):
        self.kept = torch.float32, torch.float, torch.Tensor.float
        torch.float32 = torch.float = torch.float64
        torch.Tensor.float = torch.Tensor.double

    def __exit__(self, *_):
        torch.float32, torch.float, torch.Tensor.float = self.kept


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    # norms multiply by 1 + w
    zero = model.config.model_type == "gemma3"
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.ndim == 1 and "norm" in name:
                p.copy_(((0.0 if zero else 1.0) + rand_bf16(g, *p.shape, std=0.1)).to(torch.bfloat16))
            elif p.ndim == 1:
                p.copy_(rand_bf16(g, *p.shape, std=0.2))
            elif "embed_tokens" in name or "lm_head" in name:
                p.copy_(rand_bf16(g, *p.shape, std=0.15))
            else:
                p.copy_(rand_bf16(g, *p.shape, std=0.8 / p[0].numel() ** 0.5))


def run(model, batch):
    """(logits, loss, gradients) of the language model's weights."""
    model.eval()
    model.zero_grad()
    out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    loss = loss_fn(out.logits, batch["labels"])
    loss.backward()
    return out.logits.detach(), loss.detach(), {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def auto(config):
    return transformers.AutoModelForImageTextToText if "vision_config" in config else transformers.AutoModelForCausalLM


def load(folder):
    with open(os.path.join(folder, "config.json")) as fh:
        return auto(json.load(fh)).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def in_double(folder):
    """The model of `folder` in float64, with rotary tables made in float64."""
    model = load(folder)
    with Double():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if hasattr(child, "rope_type") and "vision" not in type(child).__name__.lower():
                    setattr(parent, name, type(child)(child.config))
        return model.double()


def short(model, batch):
    """The first row cut to where no length of pretraining is reached, and its logits."""
    ids = batch["input_ids"][:1, :15]
    with torch.no_grad():
        return {"short_ids": ids.to(torch.int32), "short_logits": model(input_ids=ids, use_cache=False).logits}


def main():
    path = os.path.join(HERE, "families.json")
    with open(path) as fh:
        report = json.load(fh)
    for index, (name, config) in enumerate(CONFIGS.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder, seed = os.path.join(HERE, f"tiny-{name}"), 1000 + index
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w") as fh:
            json.dump(config, fh, indent=1)
        torch.manual_seed(seed)
        model = auto(config).from_config(transformers.AutoConfig.from_pretrained(folder))
        randomise(model, seed)
        model.to(torch.bfloat16).save_pretrained(folder)
        # as it is on the hub, not as this version writes it
        with open(os.path.join(folder, "config.json"), "w") as fh:
            json.dump(dict(config, architectures=[type(model).__name__]), fh, indent=1)
        os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
        generation = os.path.join(folder, "generation_config.json")
        if os.path.exists(generation):
            os.remove(generation)
        batch = make_batch(seed)
        exact = in_double(folder)
        with Double():
            logits, loss, grads = run(exact, batch)
            more = short(exact, batch)
        kept = batch["attention_mask"].bool()
        tensors = {k: v.to(torch.int32) for k, v in batch.items()} | more
        tensors["short_logits"] = tensors["short_logits"].float()
        tensors["logits"] = (logits * kept[..., None]).float()
        tensors["loss"] = loss.reshape(1)
        tensors |= {"grad." + k: v.float() for k, v in grads.items()}
        save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(HERE, f"model_{name}.safetensors"))
        os.chmod(os.path.join(HERE, f"model_{name}.safetensors"), 0o644)
        lo, ls, gr = run(load(folder), batch)
        assert gr.keys() == grads.keys(), gr.keys() ^ grads.keys()
        spread = {
            "logits": (lo.double() - logits)[kept].abs().max().item(),
            "loss": max(abs(ls.item() - loss.item()), loss.item() * 2.0**-24),
            "grad_rel_l2": max(((gr[k].double() - grads[k]).norm() / grads[k].norm()).item() for k in grads),
            "grad_max_abs": max((gr[k].double() - grads[k]).abs().max().item() for k in grads),
        }
        print(f"{name:13} loss {loss.item():.4f} logits up to {logits[kept].abs().max():.2f}",
              {k: f"{v:.1e}" for k, v in spread.items()}, flush=True)
        report["models"][f"tiny-{name}"] = {
            "loss": loss.item(), "spread": spread, "tolerance": {k: round_up(10 * v) for k, v in spread.items()},
        }
    report["made_by"]["transformers_of_more"] = transformers.__version__
    with open(path, "w") as fh:
        json.dump(report, fh, indent=1)


if __name__ == "__main__":
    main()
