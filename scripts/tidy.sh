#!/usr/bin/env bash
# Runs clang-tidy (.clang-tidy; every warning is an error) over the project's sources, in parallel.
#
#   scripts/tidy.sh [FILE...]      default: every .cc under src/ and tests/ that the build compiles
#
# Needs clang-tidy: apt-get install clang-tidy
set -euo pipefail
cd "$(dirname "$0")/.."

# Each file by itself, as an editor or a reader sees it.
database=build/tidy/compile_commands.json
cmake -S . -B build/tidy -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DMEGALODON_UNITY=OFF \
  -DMEGALODON_FUZZ=ON >/dev/null

tidy=$(command -v clang-tidy || command -v clang-tidy-14) || {
  echo "tidy: clang-tidy not found; install it: apt-get install clang-tidy" >&2
  exit 1
}

# Clang reads neither GCC's precompiled header nor all of GCC's flags, so it gets a copy of the database without them.
# Nor does it accept libtorch 1.13's headers with libstdc++'s constexpr vector (a vector<IValue> used before IValue is
# complete): it gets a plain one first.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat > "$scratch/plain_vector.h" <<'EOF'
#include <string>
#pragma push_macro("_GLIBCXX20_CONSTEXPR")
#undef _GLIBCXX20_CONSTEXPR
#define _GLIBCXX20_CONSTEXPR
#define __fill_a1 __plain_fill_a1 // declared constexpr by <string> already
#include <vector>
#undef __fill_a1
#pragma pop_macro("_GLIBCXX20_CONSTEXPR")
EOF
/usr/bin/python3 - "$database" "$scratch" "$@" > "$scratch/files" <<'EOF'
import json, os, shlex, sys

database, scratch, *wanted = sys.argv[1:]
root = os.getcwd()
plain_vector = ["-include", os.path.join(scratch, "plain_vector.h")]
entries = {}
for entry in json.load(open(database)):
    path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), root)
    if not path.startswith(("src/", "tests/")):
        continue
    arguments = iter(shlex.split(entry["command"]))
    kept = []
    for argument in arguments:
        if argument == "-include":
            header = next(arguments)
            kept += [] if "cmake_pch" in header else [argument, header]
        elif argument not in ("-Winvalid-pch", "-fpch-preprocess", "-fno-var-tracking"):
            kept.append(argument)
    while not os.path.basename(kept[0]).startswith(("c++", "g++", "clang++")):  # cmake -E env X=Y ccache c++ ...
        kept.pop(0)
    entries[path] = {"directory": entry["directory"], "file": entry["file"], "arguments": kept + plain_vector}
json.dump(list(entries.values()), open(os.path.join(scratch, "compile_commands.json"), "w"))
if unknown := [f for f in wanted if os.path.relpath(f, root) not in entries]:
    sys.exit(f"tidy: not compiled by the build: {', '.join(unknown)}")
for path in sorted(os.path.relpath(f, root) for f in wanted) or sorted(entries):
    print(path)
EOF

# A file's output appears at once and only when something is wrong.
check() {
  local output status=0
  output=$("$1" -p "$2" --quiet "$3" 2>&1) || status=$?
  if ((status != 0)); then
    printf 'tidy: %s (clang-tidy ended with %d)\n%s\n' "$3" "$status" "$output"
    return 1
  fi
}
export -f check
if ! xargs -P "${TIDY_JOBS:-$(nproc)}" -I{} bash -c 'check "$@"' _ "$tidy" "$scratch" {} < "$scratch/files"; then
  echo "clang-tidy: some of $(wc -l < "$scratch/files") files have warnings" >&2
  exit 1
fi
echo "clang-tidy: $(wc -l < "$scratch/files") files clean"
