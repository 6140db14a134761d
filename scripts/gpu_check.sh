#!/usr/bin/env bash
# Builds with this machine's PyTorch, compares everything with the CPU and with reference numbers on the GPU, then times
# it beside plain PyTorch.
#
#   scripts/gpu_check.sh [--packages DIR] [--golden DIR] [--out DIR] [--build DIR] [STAGE...]
#
#   --packages DIR  what scripts/pack_dependencies.sh DIR collected, where packages cannot be installed
#   --golden DIR    reference data; default: those carried in tests/golden
#   --out DIR       report.txt, report.json and a log for every stage; default: build/gpu_check
#   --build DIR     default: build/gpu
#   STAGE...        of build kernels ops models training golden golden_bfloat16 bench_ops bench_train decode peers;
#                   default: all
#
# A stage that passed is not run again while the sources are the same: after an interruption the same command goes on
# where it stopped. (Remove DIR/STAGE.passed to run one again.) Each has its own time limit. Exit code 0: all of them
# passed.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")

packages="" golden=$root/tests/golden out=$root/build/gpu_check build=$root/build/gpu
stages=()
known=(build kernels ops models training golden golden_bfloat16 bench_ops bench_train decode peers)
while (($# > 0)); do
  case $1 in
    --packages | --golden | --out | --build)
      (($# > 1)) || { echo "gpu_check: $1 needs a folder" >&2; exit 2; }
      case $1 in
        --packages) packages=$(realpath "$2") ;;
        --golden) golden=$(realpath "$2") ;;
        --out) out=$(realpath -m "$2") ;;
        --build) build=$(realpath -m "$2") ;;
      esac
      shift 2
      ;;
    -h | --help) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *)
      [[ " ${known[*]} " == *" $1 "* ]] || { echo "gpu_check: expected a stage of ${known[*]}, got '$1'" >&2; exit 2; }
      stages+=("$1")
      shift
      ;;
  esac
done
((${#stages[@]} > 0)) || stages=("${known[@]}")
command -v nvidia-smi >/dev/null || { echo "gpu_check: no nvidia-smi: this machine has no NVIDIA GPU" >&2; exit 1; }
cd "$root"
mkdir -p "$out"

# What passed with other sources has to be seen again.
sources=$(find CMakeLists.txt cmake src tests bench scripts -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
if [[ $(cat "$out/sources.sha256" 2>/dev/null) != "$sources" ]]; then
  rm -f "$out"/*.passed
  echo "$sources" >"$out/sources.sha256"
fi
export MEGALODON_NEED_GPU=1  # tests fail where they would be skipped

build() {
  local torch arguments
  torch=$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)')
  arguments=(-DCMAKE_PREFIX_PATH="$packages;$torch" -DMEGALODON_CUDA_ARCHITECTURES=native)
  if [[ -n $packages ]]; then
    arguments+=(-DPKG_CONFIG_EXECUTABLE="$packages/bin/pkg-config")
    export PKG_CONFIG_PATH=$packages/lib/pkgconfig
  fi
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "${arguments[@]}"
  cmake --build "$build" --target megalodon golden_test cuda_kernel_test cuda_test train_test
}
kernels() { "$build/tests/cuda_kernel_test" --gtest_brief=1; }
ops() {
  cmake --build "$build" --target ops_test
  "$build/tests/ops_test" --gtest_brief=1 --gtest_filter="*.Gpu*"
}
models() { "$build/tests/cuda_test" --gtest_brief=1; }
training() { MEGALODON_TEST_DEVICE=cuda "$build/tests/train_test" --gtest_brief=1 --gtest_filter="Training*:Optimizer*:Step*"; }
golden() { MEGALODON_GOLDEN_DIR=$golden "$build/golden_test" --device cuda; }
golden_bfloat16() { MEGALODON_GOLDEN_DIR=$golden "$build/golden_test" --device cuda --precision bfloat16; }
bench_ops() { "$build/megalodon" bench ops --device cuda --seconds 0.1 --json; }
bench_train() {
  local bench=("$build/megalodon" bench train --device cuda --precision bfloat16 --json)
  local large=("${bench[@]}" --preset mega1.3B --chunk 4096 --tokens 32768)
  # What fits into 80 GB; half of the layers are recomputed where it does not.
  "${large[@]}" --seq 32768 --checkpoint-every 4 || "${large[@]}" --seq 32768 --checkpoint-every 2
  "${large[@]}" --seq 4096 --checkpoint-every 4 || "${large[@]}" --seq 4096 --checkpoint-every 2
  "${bench[@]}" --preset mega200M --tokens 32768 --seq 2048
}
decode() {
  local bench=("$build/megalodon" bench decode --device cuda --json)
  # Half a chunk, with steps repeated and queued anew; then the same at position 1,024 of a chunk, far into a text.
  "${bench[@]}" --preset mega1.3B --type bf16,q4 --depth 1024 --batch 1,8
  "${bench[@]}" --preset mega200M --type q4 --depth 1024 --queue-each
  "${bench[@]}" --preset mega200M --type q4 --depth 1024,263168
}
peers() { python3 bench/peers_cuda.py --output "$out/peers.jsonl" --total-limit "${MEGALODON_PEERS_SECONDS:-220}"; }

declare -A limits=([build]=420 [kernels]=90 [ops]=240 [models]=150 [training]=120 [golden]=150 [golden_bfloat16]=150
  [bench_ops]=90 [bench_train]=180 [decode]=120 [peers]=240)

failed=()
for stage in "${stages[@]}"; do
  [[ -e $out/$stage.passed ]] && continue
  rm -f "$out/$stage.failed"
  begin=$SECONDS status=0
  echo "gpu_check: $stage (at most ${limits[$stage]} s)"
  export -f "$stage"
  export packages golden build out
  timeout --kill-after=10 "${limits[$stage]}" bash -euo pipefail -c "$stage" >"$out/$stage.log" 2>&1 || status=$?
  seconds=$((SECONDS - begin))
  if ((status == 0)); then
    echo "$seconds" >"$out/$stage.passed"
    echo "gpu_check: $stage passed in $seconds s"
  else
    failed+=("$stage")
    echo "$status $seconds" >"$out/$stage.failed"
    echo "gpu_check: $stage FAILED (exit code $status, $seconds s); the end of $out/$stage.log:"
    tail -n 25 "$out/$stage.log" | cut -c1-400
    [[ $stage != build ]] || break
  fi
done

python3 scripts/gpu_report.py "$out" "${known[@]}"
((${#failed[@]} == 0))
