#!/usr/bin/env bash
# Fuzzes everything that reads files from outside: libFuzzer under the address and undefined-behaviour sanitizers, two
# targets at a time.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]     default: 60 seconds each, every tests/fuzz/NAME_fuzz.cc; TARGET is a NAME
#
# Those of tests/fuzz/torch need libtorch and are built by GCC in build/fuzz-torch.
#
# What a run finds interesting is kept in build/fuzz/corpus/NAME and is where the next run goes on; the seeds are in
# tests/fuzz/corpus/NAME. A finding ends the target, leaves its input in build/fuzz/findings/ and makes the script fail.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=60
if [[ ${1-} =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
known=(tests/fuzz/*_fuzz.cc tests/fuzz/torch/*_fuzz.cc)
known=("${known[@]##*/}")
known=("${known[@]%_fuzz.cc}")
targets=("$@")
if ((${#targets[@]} == 0)); then targets=("${known[@]}"); fi
for target in "${targets[@]}"; do
  [[ " ${known[*]} " == *" $target "* ]] || { echo "fuzz: no target '$target'; there are: ${known[*]}" >&2; exit 2; }
done

preset_of() { [[ -f tests/fuzz/$1_fuzz.cc ]] && echo fuzz || echo fuzz-torch; }
export -f preset_of

scripts/setup.sh fuzz
for preset in fuzz fuzz-torch; do
  programs=()
  for target in "${targets[@]}"; do
    [[ $(preset_of "$target") != "$preset" ]] || programs+=("${target}_fuzz")
  done
  ((${#programs[@]} > 0)) || continue
  cmake --preset "$preset" >/dev/null
  cmake --build "build/$preset" --target "${programs[@]}"
done
export seconds logs=build/fuzz/logs
mkdir -p "$logs" build/fuzz/findings

# One line says how it went; the whole log is kept.
fuzz() {
  local name=$1 binary=build/$(preset_of "$1")/tests/fuzz/$1_fuzz log=$logs/$1.log seeds=tests/fuzz/corpus/$1 status=0
  local options=(-rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=10 -artifact_prefix="build/fuzz/findings/$1-")
  [[ -f $seeds.dict ]] && options+=(-dict="$seeds.dict")
  mkdir -p "build/fuzz/corpus/$name"
  "$binary" "${options[@]}" -max_len=8192 -max_total_time="$seconds" -print_final_stats=1 \
    "build/fuzz/corpus/$name" "$seeds" >"$log" 2>&1 || status=$?
  local runs progress
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  progress=$(grep -oE 'cov: [0-9]+|corp: [0-9]+' "$log" | tail -2 | tr '\n' ' ')
  printf '%-18s %9s runs, %s%s\n' "$name" "${runs:-0}" "$progress" "$( ((status == 0)) && echo ok || echo FAILED)"
  if ((status != 0)); then
    local input
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    printf '  log: %s\n  rerun: %s %s\n' "$log" "$binary" "${input:-(no input written)}"
    # Enough to find it elsewhere: what was broken, and the input.
    grep -E '^SUMMARY: |: runtime error: |^==[0-9]+==ERROR: ' "$log" | cut -c1-400 | sed 's/^/  /' || true
    [[ ! -s $input ]] || printf '  input in base64: %s\n' "$(base64 -w0 "$input")"
    return 1
  fi
}
export -f fuzz

results=$(mktemp)
trap 'rm -f "$results"' EXIT
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'fuzz "$@"' _ {} | tee "$results" || true
failed=$(grep -cE '^[a-z0-9_]+ .* runs, .*FAILED$' "$results" || true)
passed=$(grep -cE '^[a-z0-9_]+ .* runs, .*ok$' "$results" || true)
echo "fuzz: $passed passed, $failed failed"
((passed == ${#targets[@]}))
