#!/usr/bin/env bash
# Command 2: installs what is missing, builds everything, runs every test.
#   ./test.sh [PRESET] [ctest options]      PRESET: release (default), debug, asan
set -euo pipefail
cd "$(dirname "$0")"
preset=release
if [[ ${1-} =~ ^(release|debug|asan)$ ]]; then
  preset=$1
  shift
fi
scripts/setup.sh
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset"
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT-10000}  # tests run side by side: their threads must not spin for each other's cores
ctest --preset "$preset" -j "$(nproc)" "$@"
