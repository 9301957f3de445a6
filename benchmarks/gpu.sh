#!/usr/bin/env bash
# What needs a GPU, in one command: the tests, then the benchmarks. `make gpu` runs it. Everything goes to a folder,
# benchmarks/gpu unless another one is named, with the machine and the versions. What is there is not measured again,
# so a run that was interrupted can be repeated. FlashAttention is measured if its package is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
OUT=${1:-benchmarks/gpu}

"$PYTHON" - <<'END'
import torch
if not torch.cuda.is_available():
    raise SystemExit(f"`make gpu` needs a CUDA GPU, and torch {torch.__version__} sees none. Install the CUDA build.")
END
mkdir -p "$OUT"
{
    date -u +%Y-%m-%d
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
    "$PYTHON" -m pip list 2>/dev/null | grep -iE "^(torch|triton|transformers|trl|peft|accelerate|flash|kernels)" || true
} >"$OUT/machine.txt"

once() { # FILE COMMAND: run a command and keep its output, unless a finished run left it
    if [ -e "$OUT/$1" ]; then
        echo "$OUT/$1 is there already"
    else
        "${@:2}" 2>&1 | tee "$OUT/$1.part"
        mv "$OUT/$1.part" "$OUT/$1"
    fi
}

once tests.txt "$PYTHON" -m pytest -m gpu -v
for attention in sdpa $("$PYTHON" -c 'import importlib.util as u; print("flash_attention_2" * bool(u.find_spec("flash_attn")))'); do
    once "grid_$attention.txt" "$PYTHON" benchmarks/training_step.py --vocab_size 32000 --dtype bfloat16 --memory \
        --attn_implementation "$attention" --grid "$OUT/grid_$attention.jsonl" --plot "$OUT/grid_$attention.svg"
    once "step_$attention.txt" "$PYTHON" benchmarks/training_step.py --model tiny --dtype bfloat16 --memory --repeats 20 \
        --attn_implementation "$attention" --json "$OUT/step_$attention.json" --plot "$OUT/step_$attention.svg"
    once "profile_$attention.txt" "$PYTHON" benchmarks/step_profile.py --model tiny --dtype bfloat16 --pairs 16 --steps 30 \
        --attn_implementation "$attention"
done
echo "The record is in $OUT."
