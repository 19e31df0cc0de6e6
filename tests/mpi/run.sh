#!/usr/bin/env bash
# Ranks by MPI, on whatever device there is: 1, 2 and 4 of them, repeated, resumed, killed, hung and given different options.
#   run.sh RUGOSA [FOLDER]
# RUGOSA is a program that was built with the feature mpi. Ends with a table (ranks, tokens/s, bytes); fails at the first thing
# that is not as it should be. tests/training/ranks.rs has what needs no MPI.
set -euo pipefail
rugosa=$(realpath "$1")
model=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../assets/demo")
work=${2:-$(mktemp -d)}
[ -n "${2:-}" ] || trap 'rm -rf "$work"' EXIT
mkdir -p "$work" && cd "$work"
export NODEVICE_SELECT=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# one thread of the software renderer for each rank: they share the processor
export LP_NUM_THREADS=${LP_NUM_THREADS:-1}
mpi() { mpirun --oversubscribe --bind-to none "$@"; }
fail() { echo "tests/mpi: $*" >&2; exit 1; }

# the rank RANK of the run that this script has in the folder OUT, by its process
process_of() { # OUT RANK
    pgrep -f -- "train .*--out $1" | while read -r pid; do
        [ "$(readlink "/proc/$pid/cwd")" = "$PWD" ] || continue
        if tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$2"; then echo "$pid"; fi
    done
}
wait_for() { # FILE LOG
    for _ in $(seq 240); do
        [ ! -e "$1" ] || return 0
        sleep 0.25
    done
    fail "no $1 after a minute: $(cat "$2")"
}

for i in $(seq 40); do
    printf '{"prompt": "Row %d of %s", "completion": "is %s %d."}\n' "$i" "$(seq -s ' ' $((i % 7 + 1)))" "$(seq -s ' ' $((i % 5 + 1)))" $((i * 37))
done >rows.jsonl
common=(--model "$model" --data rows.jsonl --batch-size 1 --gradient-accumulation-steps 4 --seq-len 128
    --schedule wl2 --mask-grads 2 --steps 6 --warmup-steps 1 --rank 4 --density 0.02 --dropout 0.1 --max-grad-norm 1 --quiet)

train() { # NAME RANKS MORE...
    local name=$1 ranks=$2
    shift 2
    mpi -n "$ranks" "$rugosa" train "${common[@]}" --save-mask "$name.masks.safetensors" --out "$name" "$@" 2>"$name.log" ||
        fail "$name: $(cat "$name.log")"
}

for ranks in 1 2 4; do train "of$ranks" "$ranks"; done
train again 4
for ranks in 2 4; do
    cmp "of1.masks.safetensors" "of$ranks.masks.safetensors" || fail "$ranks ranks have other masks than one"
done
cmp of4/adapter_model.safetensors again/adapter_model.safetensors || fail "4 ranks do not repeat bit for bit"
python3 - <<'P' || fail "losses are not those of one rank"
import json
losses = lambda n: [json.loads(line)["loss"] for line in open(f"of{n}/metrics.jsonl")]
one = losses(1)
for n in 2, 4:
    worst = max(abs(a - b) / a for a, b in zip(one, losses(n), strict=True))
    print(f"{n} ranks: losses within {worst:.1e} of those of one")
    assert worst < 1e-4
P

long=("${common[@]/#6/4000}" --save-steps 2)
# a run of two ranks, of which the second gets SIGNAL once there are states: the others end within LIMIT seconds, and WORDS are said of it
strike() { # OUT SIGNAL LIMIT WORDS
    local out=$1 job second began
    mpi -n 2 "$rugosa" train "${long[@]}" --out "$out" 2>"$out.log" &
    job=$!
    wait_for "$out/state/step-6/DONE" "$out.log"
    second=$(process_of "$out" 1)
    began=$SECONDS
    kill "-$2" "$second"
    ! wait "$job" || fail "$out: this is no success"
    took=$((SECONDS - began))
    [ "$took" -le "$3" ] || fail "$out: the others lived on for $took s"
    grep -q "$4" "$out.log" || fail "$out: nobody says \"$4\": $(cat "$out.log")"
}

# a killed rank ends the others in time, and the last state is gone on from, on another number of ranks
strike killed KILL 20 "rank 1 "
echo "killed: ended after $took s: $(grep -m 1 'rank 1 ' killed.log)"
at=$(ls killed/state | sed 's/step-//' | sort -n | tail -1)
# asked to stop, the first rank stops all
mpi -n 3 "$rugosa" train "${long[@]}" --out killed --resume 2>resumed.log &
job=$!
wait_for "killed/state/step-$((at + 4))/DONE" resumed.log
first=$(process_of killed 0)
kill -TERM "$first"
code=0; wait $job || code=$?
[ "$code" = 130 ] || fail "asked to stop, 3 ranks end with $code: $(cat resumed.log)"
echo "resumed on 3 ranks from step $at, stopped together before step $(ls killed/state | sed 's/step-//' | sort -n | tail -1)"

# a rank that hangs is named
RUGOSA_RANK_TIMEOUT=3 strike hung STOP 30 "^error: rank 1: has not answered for 3 s"
echo "hung: ended after $took s"

# what cannot be one run
refused() { # LINE, then the arguments of mpirun
    local line=$1 code=0
    shift
    mpi "$@" 2>refused.log || code=$?
    [ "$code" != 0 ] && grep -q "^error: $line" refused.log || fail "expected \"$line\", exit code $code: $(cat refused.log)"
    [ "$(grep -c '^error: ' refused.log)" = 1 ] || fail "more than one line: $(cat refused.log)"
}
refused "rank 1: --lr: 0.5 here" -n 1 "$rugosa" train "${common[@]}" --out none : -n 1 "$rugosa" train "${common[@]}" --lr 0.5 --out none
refused "ranks: 5 of them, but a step has 4 micro-batches" -n 5 "$rugosa" train "${common[@]}" --out none
refused "rank 0: .*none.jsonl: " -n 3 "$rugosa" train "${common[@]/rows.jsonl/none.jsonl}" --out none
# without a launcher it is one rank, without MPI
"$rugosa" train "${common[@]}" --out single || fail "one process by itself"

python3 - <<'P'
import json
one = None
print("| ranks | tokens/s | of one |\n|---|---|---|")
for n in 1, 2, 4:
    speeds = sorted(json.loads(line)["tokens_per_second"] for line in open(f"of{n}/metrics.jsonl"))
    speed = speeds[len(speeds) // 2]
    one = one or speed
    print(f"| {n} | {speed:.0f} | {speed / one:.2f} |")
P
