#!/usr/bin/env bash
# What BENCHMARKS.md needs of a GPU, in one session on one device: `make bench-gpu`, or
#   RUGOSA=path/to/rugosa benches/gpu.sh OUT [PART…]
# Parts: selftest kernels masks smollm2 llama1b llama7b qlora first. Without any: all. Each leaves OUT/PART*.txt, and JSON
# beside it. A part that fails is told at the end and stops none of the others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rugosa=${RUGOSA:-target/release/rugosa}
out=${1:-target/bench-gpu}
shift || true
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(selftest kernels masks smollm2 llama1b llama7b qlora first)
mkdir -p "$out"
failed=()

# run NAME ARGUMENTS…: table to OUT/NAME.txt and to the terminal
run() {
    local name=$1
    shift
    printf '\n== rugosa %s\n' "$*"
    "$rugosa" "$@" | tee "$out/$name.txt" || failed+=("$name")
}

# bench NAME ARGUMENTS…: the same with JSON
bench() {
    local name=$1
    shift
    run "$name" bench "$@" --json "$out/$name.json"
}

part() {
    case $1 in
    selftest) run selftest selftest ;;
    kernels) bench kernels kernels ;;
    # dS and W + S at the shapes that the original's kernels were measured at
    masks) bench masks kernels --filter original ;;
    # LoRA with as many parameters has rank 12 here, 14 in the 1b shape and 16 in the 7b one
    smollm2)
        bench smollm2 step --shape smollm2-135m --batch-size 8 --seq-len 512 --method lora,rosa --rank 8 --lora-rank 12 \
            --density 0.0115 --precision f16,f32 --weights bf16 --profile
        bench smollm2-clustered step --shape smollm2-135m --batch-size 8 --seq-len 512 --method lora,rosa --rank 8 \
            --lora-rank 12 --density 0.0115 --precision f16 --weights bf16,q4 --mask clustered
        bench smollm2-checkpointing step --shape smollm2-135m --batch-size 8 --seq-len 512 --method rosa --rank 8 \
            --density 0.0115 --precision f16 --weights bf16 --checkpointing
        ;;
    llama1b)
        bench llama1b step --shape llama3.2-1b --batch-size 8 --seq-len 512 --method lora,rosa --rank 12 --lora-rank 14 \
            --density 0.0015 --precision f16 --weights bf16,q4 --profile
        ;;
    llama7b)
        bench llama7b step --shape llama2-7b --batch-size 4 --seq-len 512 --method lora,rosa --rank 12 --lora-rank 16 \
            --density 0.0015 --precision f16 --weights bf16 --profile
        bench llama7b-checkpointing step --shape llama2-7b --batch-size 4 --seq-len 512 --method rosa --rank 12 \
            --density 0.0015 --precision f16 --weights bf16 --checkpointing
        ;;
    qlora)
        bench qrosa-7b step --shape llama2-7b --batch-size 1 --seq-len 512 --method rosa --rank 12 --density 0.0015 \
            --precision f16 --weights q4 --checkpointing
        bench q4-7b step --shape llama2-7b --batch-size 8 --seq-len 512 --method rosa --rank 12 --density 0.0015 \
            --precision f16 --weights bf16,q4 --steps 5 --checkpointing
        ;;
    # twice: the second time with the driver's cache warm
    first)
        for time in cold warm; do
            bench "first-$time" step --shape smollm2-135m --batch-size 8 --seq-len 512 --method rosa --rank 8 \
                --density 0.0115 --precision f16 --weights bf16 --steps 1 --warmup 1
        done
        ;;
    *)
        echo "bench-gpu: there is no part $1" >&2
        exit 2
        ;;
    esac
}

for p in "${parts[@]}"; do part "$p"; done
if [ ${#failed[@]} -gt 0 ]; then
    echo "bench-gpu: failed: ${failed[*]}" >&2
    exit 1
fi
echo "bench-gpu: all parts are in $out"
