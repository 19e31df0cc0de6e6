#!/usr/bin/env python3
"""LoRA training steps in PyTorch with PEFT, of the shapes that `rugosa bench step` has, with random weights.

All seven linears of every layer, AdamW (fused on a GPU), sdpa attention, bf16 weights and arithmetic. A and B are in f32 as PEFT
keeps them, or in what --adapter-dtype says; --compile is what a careful user runs, --liger takes Liger's kernels where that
package is there.
Every token is supervised. Prints a line of JSON for each shape: tokens/s by the median step, and the peak of torch's
allocator.

    python3 benches/peers/torch_peft.py --shape smollm2-135m --batch-size 8 --seq-len 512
    python3 benches/peers/torch_peft.py --shape llama3.2-1b --compile --adapter-dtype bfloat16

Needs torch, transformers and peft, and for what is worth reporting an NVIDIA GPU.
"""

import argparse
import json
import statistics
import time

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

# hidden, intermediate, layers, heads, kv heads, head size, vocabulary, tied
SHAPES = {
    "smollm2-135m": (576, 1536, 30, 9, 3, 64, 49152, True),
    "llama3.2-1b": (2048, 8192, 16, 32, 8, 64, 128256, True),
    "llama2-7b": (4096, 11008, 32, 32, 32, 128, 32000, False),
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, 128, 151936, True),
    "tiny": (64, 172, 5, 8, 4, 8, 512, True),
}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def use_liger():
    """Liger's kernels for models that are built from now on."""
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llama, apply_liger_kernel_to_qwen3
    except ImportError as error:
        raise SystemExit(f"--liger needs the package liger-kernel: {error}") from error
    apply_liger_kernel_to_llama()
    apply_liger_kernel_to_qwen3()


def build(name, rank, checkpointing, seq_len, device, dtype):
    hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, tied = SHAPES[name]
    config_class = Qwen3Config if name.startswith("qwen3") else LlamaConfig
    config = config_class(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        max_position_embeddings=max(2048, seq_len),
        use_cache=False,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    lora = peft.LoraConfig(r=rank, lora_alpha=16, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, lora).train(), vocab


def measure(name, args, device, dtype):
    torch.manual_seed(1)
    model, vocab = build(name, args.rank, args.checkpointing, args.seq_len, device, dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.to(getattr(torch, args.adapter_dtype))
    optimiser = torch.optim.AdamW(trained, lr=7e-4, weight_decay=0.0, fused=device == "cuda")
    if args.compile:
        model = torch.compile(model)
    tokens = torch.randint(vocab, (args.batch_size, args.seq_len), device=device)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step():
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss

    for _ in range(args.warmup):
        step()
    times = []
    for _ in range(args.steps):
        wait()
        start = time.perf_counter()
        loss = step()
        wait()
        times.append(time.perf_counter() - start)
    # without waits between, as a training loop has it
    start = time.perf_counter()
    for _ in range(args.steps):
        loss = step()
    wait()
    streamed = (time.perf_counter() - start) / args.steps
    median, count = statistics.median(times), args.batch_size * args.seq_len
    return {
        "shape": name,
        "batch_size": args.batch_size,
        "seq_len": args.seq_len,
        "rank": args.rank,
        "checkpointing": args.checkpointing,
        "dtype": str(dtype).removeprefix("torch."),
        "adapter_dtype": args.adapter_dtype,
        "compiled": args.compile,
        "liger": args.liger,
        "parameters": sum(p.numel() for p in trained),
        "tokens_per_second": round(count / median, 1),
        "tokens_per_second_streamed": round(count / streamed, 1),
        "step_ms": {"median": median * 1e3, "min": min(times) * 1e3, "max": max(times) * 1e3},
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "last_loss": loss.item(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="smollm2-135m", help=f"one or more of {', '.join(SHAPES)}, with commas between")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--adapter-dtype", choices=["bfloat16", "float32"], default="float32", help="of A and B")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--liger", action="store_true", help="Liger's kernels")
    args = parser.parse_args()
    if args.liger:
        use_liger()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = args.shape.split(",")
    unknown = [n for n in names if n not in SHAPES]
    if unknown:
        parser.error(f"there is no shape {unknown[0]}; there are {', '.join(SHAPES)}")
    for name in names:
        print(json.dumps(measure(name, args, device, getattr(torch, args.dtype))), flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
