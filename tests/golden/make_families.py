#!/usr/bin/env python3
"""Reference numbers for the model families: logits, loss and every gradient of tiny random models.

    pip install torch transformers safetensors
    python tests/golden/make_families.py        # writes to tests/fixtures/golden

The decoder in this file, written from the published descriptions, is run in float64: these are the reference values. It is
then run in float32, and so is transformers' own class of each family (eager and, where it can, sdpa attention). The worst
distance of the float32 results from the float64 ones, times ten and rounded up, is the tolerance in `families.json`.
All weights are representable in bfloat16.

tiny-qwen2 and tiny-qwen3, and their numbers, were made in the same way before; here they are read and checked.
"""
import json
import math
import os
import platform

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "golden")
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

COMMON = dict(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, head_dim=16, vocab_size=300, max_position_embeddings=128, attention_dropout=0.0,
              rms_norm_eps=1e-6, attention_bias=False, use_cache=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
              torch_dtype="bfloat16")
GEMMA = dict(COMMON, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True, query_pre_attn_scalar=24)

# Windows are shorter than the rows of 24 tokens, caps low enough to bend what they cap.
CONFIGS = {
    "tiny-mistral": dict(COMMON, model_type="mistral", architectures=["MistralForCausalLM"], hidden_act="silu",
                         head_dim=24, rope_theta=1e6, sliding_window=7, tie_word_embeddings=False),
    "tiny-gemma2": dict(GEMMA, model_type="gemma2", architectures=["Gemma2ForCausalLM"], rope_theta=1e4,
                        sliding_window=5, attn_logit_softcapping=2.0, final_logit_softcapping=4.0),
    # two periods of a window in five layers of six would be too large a file: one, and a smaller MLP
    "tiny-gemma3": dict(GEMMA, model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], num_hidden_layers=6,
                        intermediate_size=96, rope_theta=1e6, rope_local_base_freq=1e4, sliding_window=6,
                        sliding_window_pattern=6, rope_scaling={"rope_type": "linear", "factor": 4.0},
                        attn_logit_softcapping=None, final_logit_softcapping=None),
    "tiny-phi3": dict(COMMON, model_type="phi3", architectures=["Phi3ForCausalLM"], hidden_act="silu", rope_theta=1e4,
                      rms_norm_eps=1e-5, sliding_window=9, original_max_position_embeddings=128, rope_scaling=None,
                      tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0),
}
GIVEN = ["tiny-qwen2", "tiny-qwen3"]
SEEDS = {"tiny-mistral": 404, "tiny-gemma2": 505, "tiny-gemma3": 606, "tiny-phi3": 707}


def head_dim(c):
    return c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]


def is_gemma(c):
    return c["model_type"] in ("gemma2", "gemma3_text")


def windowed(c, layer):
    """Whether the layer sees `sliding_window` tokens only."""
    every = {"gemma2": 2, "gemma3_text": 6}.get(c["model_type"])
    if every:
        return (layer + 1) % every != 0
    return c["model_type"] in ("mistral", "phi3")


def rand_bf16(g, *shape, std):
    return (torch.randn(*shape, generator=g, dtype=torch.float64) * std).to(torch.bfloat16).float()


def make_weights(name):
    c, g = CONFIGS[name], torch.Generator().manual_seed(SEEDS[name])
    h, f, hd = c["hidden_size"], c["intermediate_size"], head_dim(c)
    nq, nkv = c["num_attention_heads"] * hd, c["num_key_value_heads"] * hd
    if c["model_type"] == "phi3":
        linears = {"self_attn.qkv_proj": (nq + 2 * nkv, h), "mlp.gate_up_proj": (2 * f, h)}
    else:
        linears = {"self_attn.q_proj": (nq, h), "self_attn.k_proj": (nkv, h), "self_attn.v_proj": (nkv, h),
                   "mlp.gate_proj": (f, h), "mlp.up_proj": (f, h)}
    linears |= {"self_attn.o_proj": (h, nq), "mlp.down_proj": (h, f)}
    norms = {"input_layernorm": h, "post_attention_layernorm": h}
    if is_gemma(c):
        norms |= {"pre_feedforward_layernorm": h, "post_feedforward_layernorm": h}
    if c["model_type"] == "gemma3_text":
        norms |= {"self_attn.q_norm": hd, "self_attn.k_norm": hd}
    one = 0.0 if is_gemma(c) else 1.0                      # Gemma's norms multiply by 1 + w
    # Gemma multiplies embeddings by 8 here
    w = {"model.embed_tokens.weight": rand_bf16(g, c["vocab_size"], h, std=0.06 if is_gemma(c) else 0.15)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for k, (n, m) in linears.items():
            w[p + k + ".weight"] = rand_bf16(g, n, m, std=0.8 / math.sqrt(m))
        for k, n in norms.items():
            w[p + k + ".weight"] = (one + rand_bf16(g, n, std=0.1)).to(torch.bfloat16).float()
    w["model.norm.weight"] = (one + rand_bf16(g, h, std=0.1)).to(torch.bfloat16).float()
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = rand_bf16(g, c["vocab_size"], h, std=0.15)
    return w


def forward(c, w, ids, amask):
    """Logits [B, T, V] in the dtype of `w`; positions are 0..T-1, padded keys are masked."""
    dt, kind = w["model.norm.weight"].dtype, c["model_type"]
    B, T = ids.shape
    nh, nkv, hd, eps = c["num_attention_heads"], c["num_key_value_heads"], head_dim(c), c["rms_norm_eps"]
    gemma = is_gemma(c)

    def rms(x, name):
        gain = w[name + ".weight"]
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * (1 + gain if gemma else gain)

    def lin(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    def tables(base, factor):
        inv = base ** (-torch.arange(0, hd, 2, dtype=dt) / hd) / factor
        angles = torch.outer(torch.arange(T, dtype=dt), inv)
        return angles.cos().repeat(1, 2)[None, None], angles.sin().repeat(1, 2)[None, None]

    everywhere = tables(c["rope_theta"], (c.get("rope_scaling") or {}).get("factor", 1.0))
    local = tables(c["rope_local_base_freq"], 1.0) if kind == "gemma3_text" else everywhere

    def rope(t, cos_sin):
        a, b = t[..., : hd // 2], t[..., hd // 2:]
        return t * cos_sin[0] + torch.cat((-b, a), -1) * cos_sin[1]

    q_pos, k_pos = torch.arange(T)[:, None], torch.arange(T)[None, :]
    causal = (k_pos <= q_pos)[None, None] & amask.bool()[:, None, None, :]
    scale = c["query_pre_attn_scalar"] ** -0.5 if gemma else hd ** -0.5

    h = w["model.embed_tokens.weight"][ids]
    if gemma:
        h = h * c["hidden_size"] ** 0.5
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        x = rms(h, p + "input_layernorm")
        if kind == "phi3":
            q, k, v = lin(x, p + "self_attn.qkv_proj").split([nh * hd, nkv * hd, nkv * hd], -1)
        else:
            q, k, v = (lin(x, p + f"self_attn.{n}_proj") for n in "qkv")
        q, k, v = q.view(B, T, nh, hd), k.view(B, T, nkv, hd), v.view(B, T, nkv, hd)
        if p + "self_attn.q_norm.weight" in w:
            q, k = rms(q, p + "self_attn.q_norm"), rms(k, p + "self_attn.k_norm")
        table = local if windowed(c, i) else everywhere
        q, k, v = rope(q.transpose(1, 2), table), rope(k.transpose(1, 2), table), v.transpose(1, 2)
        k, v = k.repeat_interleave(nh // nkv, 1), v.repeat_interleave(nh // nkv, 1)
        s = q @ k.transpose(-1, -2) * scale
        if c.get("attn_logit_softcapping"):
            s = c["attn_logit_softcapping"] * torch.tanh(s / c["attn_logit_softcapping"])
        allowed = causal & (k_pos > q_pos - c["sliding_window"]) if windowed(c, i) else causal
        att = torch.softmax(s.masked_fill(~allowed, torch.finfo(dt).min), -1)
        o = lin((att @ v).transpose(1, 2).reshape(B, T, nh * hd), p + "self_attn.o_proj")
        h = h + (rms(o, p + "post_attention_layernorm") if gemma else o)
        x = rms(h, p + ("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"))
        if kind == "phi3":
            gate, up = lin(x, p + "mlp.gate_up_proj").chunk(2, -1)
        else:
            gate, up = lin(x, p + "mlp.gate_proj"), lin(x, p + "mlp.up_proj")
        o = lin((F.gelu(gate, approximate="tanh") if gemma else F.silu(gate)) * up, p + "mlp.down_proj")
        h = h + (rms(o, p + "post_feedforward_layernorm") if gemma else o)
    head = w["model.embed_tokens.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    logits = rms(h, "model.norm") @ head.T
    cap = c.get("final_logit_softcapping")
    return cap * torch.tanh(logits / cap) if cap else logits


def loss_fn(logits, labels):
    """Next-token cross-entropy, the mean over the targets that are not ignored."""
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def make_batch(seed, T=24, vocab=300):
    """Two rows, the second one padded on the right; the first labels of each are ignored."""
    g = torch.Generator().manual_seed(seed)
    lengths = [T, T - int(torch.randint(3, 9, (1,), generator=g))]
    ids, mask = torch.zeros(2, T, dtype=torch.int64), torch.zeros(2, T, dtype=torch.int64)
    labels = torch.full((2, T), -100, dtype=torch.int64)
    for r, n in enumerate(lengths):
        ids[r, 0], ids[r, n - 1] = 1, 2
        ids[r, 1:n - 1] = torch.randint(10, vocab, (n - 2,), generator=g)
        mask[r, :n] = 1
        prompt = int(torch.randint(4, 9, (1,), generator=g))
        labels[r, prompt:n] = ids[r, prompt:n]
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def own(c, w, batch, dt):
    """(logits, loss, gradients) of the decoder above."""
    w = {k: v.to(dt).requires_grad_() for k, v in w.items()}
    logits = forward(c, w, batch["input_ids"], batch["attention_mask"])
    loss = loss_fn(logits, batch["labels"])
    loss.backward()
    return logits.detach(), loss.detach(), {k: v.grad for k, v in w.items()}


def theirs(name, batch, attention):
    """The same of transformers, in float32."""
    m = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.join(HERE, name), dtype=torch.float32, attn_implementation=attention).eval()
    out = m(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    loss = loss_fn(out.logits, batch["labels"])
    loss.backward()
    return out.logits.detach(), loss.detach(), {k: v.grad for k, v in m.named_parameters()}


def round_up(x):
    """To 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(x))
    return float(f"{next(m for m in (1, 2, 5, 10) if m * power >= x) * power:.0e}")


def main():
    report = {"made_by": {"python": platform.python_version(), "torch": torch.__version__,
                          "transformers": transformers.__version__}, "models": {}}
    for name in GIVEN + list(CONFIGS):
        folder = os.path.join(HERE, name)
        stored = os.path.join(HERE, f"model_{name[5:]}.safetensors")
        if name in CONFIGS:
            c, w = CONFIGS[name], make_weights(name)
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, "config.json"), "w") as fh:
                json.dump(c, fh, indent=1)
            save_file({k: v.to(torch.bfloat16) for k, v in w.items()}, os.path.join(folder, "model.safetensors"),
                      metadata={"format": "pt"})
            batch = make_batch(SEEDS[name])
        else:
            with open(os.path.join(folder, "config.json")) as fh:
                c = json.load(fh)
            w = {k: v.float() for k, v in load_file(os.path.join(folder, "model.safetensors")).items()}
            golden = load_file(stored)
            batch = {k: golden[k].long() for k in ("input_ids", "attention_mask", "labels")}
        logits, loss, grads = own(c, w, batch, torch.float64)
        kept = batch["attention_mask"].bool()
        if name in GIVEN:
            want = golden["logits"][kept].double()
            assert (logits[kept] - want).abs().max() < 1e-6, name
            assert all((grads[k] - golden["grad." + k]).norm() < 1e-6 * grads[k].norm() for k in grads), name
        else:
            tensors = {k: v.to(torch.int32) for k, v in batch.items()}
            tensors["logits"] = (logits * kept[..., None]).float()
            tensors["loss"] = loss.reshape(1)
            tensors |= {"grad." + k: v.float() for k, v in grads.items()}
            save_file(tensors, stored)
        # a float32 loss is off by half its last bit, however lucky the sums were
        spread = {"logits": 0.0, "loss": loss.item() * 2.0**-24, "grad_rel_l2": 0.0, "grad_max_abs": 0.0}
        # sdpa has no cap of the scores
        attentions = ["eager"] if c.get("attn_logit_softcapping") else ["eager", "sdpa"]
        for lo, ls, gr in [own(c, w, batch, torch.float32)] + [theirs(name, batch, a) for a in attentions]:
            assert gr.keys() == grads.keys(), gr.keys() ^ grads.keys()
            new = {
                "logits": (lo.double() - logits)[kept].abs().max().item(),
                "loss": abs(ls.item() - loss.item()),
                "grad_rel_l2": max(((gr[k].double() - grads[k]).norm() / grads[k].norm()).item() for k in grads),
                "grad_max_abs": max((gr[k].double() - grads[k]).abs().max().item() for k in grads),
            }
            print(f"{name:13}", {k: f"{v:.1e}" for k, v in new.items()})
            spread = {k: max(spread[k], v) for k, v in new.items()}
        report["models"][name] = {
            "loss": loss.item(), "spread": spread,
            "tolerance": {k: round_up(10 * v) for k, v in spread.items()},
        }
    with open(os.path.join(HERE, "families.json"), "w") as fh:
        json.dump(report, fh, indent=1)


if __name__ == "__main__":
    main()
