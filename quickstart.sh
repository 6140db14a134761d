#!/usr/bin/env bash
# Command 1: installs what is missing, builds, trains a byte-level Megalodon on Webster's dictionary for about three
# minutes (eleven where the processor has no AVX-512), measures it on held-out text, and lets it write a dictionary entry.
set -euo pipefail
cd "$(dirname "$0")"
step() { printf '\n== %s\n' "$*"; }
trap 'echo "quickstart: interrupted; ./quickstart.sh goes on from where it was" >&2; exit 130' INT

step "Installing what is missing and building"
scripts/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release --target megalodon
megalodon=build/release/megalodon

step "Preparing the corpus: Webster's dictionary"
[[ -f corpora/gcide/test.idx ]] || $megalodon data get gcide --output corpora/gcide

step "Training (runs/quickstart; a finished run is not repeated)"
$megalodon train configs/megalodon_gcide_quickstart.toml --resume auto

step "Held-out text, each document read as one stream: bits per byte by context length"
$megalodon eval ppl --model runs/quickstart --data corpora/gcide/test

step "A dictionary entry, continued from its first line"
$megalodon generate --model runs/quickstart --echo --temperature 0.7 --tokens 600 \
  --prompt 'Megalodon \Meg"a*lo*don\, n.'

step "A long text: time per token and memory do not grow with the position"
$megalodon generate --model runs/quickstart --tokens 16384 --report 2048 --prompt 'Megalodon \Meg"a*lo*don\, n.' >runs/quickstart/long.txt
echo "(the text is in runs/quickstart/long.txt)"
