#!/usr/bin/env bash
# Runs clang-tidy (.clang-tidy; every warning is an error) over the project's sources, in parallel.
#
#   scripts/tidy.sh [FILE...]      default: every .cc under src/ and tests/ that the build compiles
#
# Needs clang-tidy: apt-get install clang-tidy
set -euo pipefail
cd "$(dirname "$0")/.."

database=build/tidy/compile_commands.json
cmake -S . -B build/tidy -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DMEGALODON_UNITY=OFF \
  -DMEGALODON_FUZZ=ON >/dev/null

tidy=$(command -v clang-tidy || command -v clang-tidy-14) || {
  echo "tidy: clang-tidy not found; install it: apt-get install clang-tidy" >&2
  exit 1
}

# Clang does not know all of GCC's flags, so it gets a copy of the database without them. Nor does it accept
# libtorch 1.13's headers with libstdc++'s constexpr vector (a vector<IValue> used before IValue is complete): it gets a
# plain one first.
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
# What a file includes takes most of its time: eight of a target are read as one, as the build does it. They are pasted,
# not included: the analyzer looks at functions of the file itself only.
/usr/bin/python3 - "$database" "$scratch" "$@" > "$scratch/files" <<'EOF'
import json, os, re, shlex, sys

database, scratch, *wanted = sys.argv[1:]
root = os.getcwd()
plain_vector = ["-include", os.path.join(scratch, "plain_vector.h")]
wanted = {os.path.relpath(f, root) for f in wanted}
targets = {}  # (target, alone) -> [(path, arguments, directory)]
for entry in json.load(open(database)):
    path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), root)
    if not path.startswith(("src/", "tests/")) or not path.endswith(".cc") or (wanted and path not in wanted):
        continue
    arguments = iter(shlex.split(entry["command"]))
    kept, output = [], ""
    for argument in arguments:
        if argument == "-o":
            output = next(arguments)
        elif not argument.startswith("--param=") and argument != entry["file"]:
            kept.append(argument)
    while not os.path.basename(kept[0]).startswith(("c++", "g++", "clang++")):  # cmake -E env X=Y ccache c++ ...
        kept.pop(0)
    alone = path if path.endswith("_cpu.cc") else ""  # Highway's kernels include themselves
    target = re.search(r"CMakeFiles/([^/]+)\.dir/", output).group(1)
    targets.setdefault((target, alone), []).append((path, kept, entry["directory"]))
seen = {path for files in targets.values() for path, *_ in files}
if unknown := sorted(wanted - seen):
    sys.exit(f"tidy: not compiled by the build: {', '.join(unknown)}")
entries, done = [], set()
for (target, alone), files in sorted(targets.items()):
    files = [f for f in sorted(files) if f[0] not in done]  # some are compiled into several programs
    done |= {f[0] for f in files}
    for first in range(0, len(files), 8):
        batch = files[first : first + 8]
        source = os.path.join(root, alone) if alone else os.path.join(scratch, f"{target}_{first // 8}.cc")
        if not alone:
            with open(source, "w") as out:
                for path, *_ in batch:
                    out.write(f'#line 1 "{os.path.join(root, path)}"\n{open(os.path.join(root, path)).read()}\n')
        _, kept, directory = batch[0]
        beside = sorted({"-I" + os.path.dirname(os.path.join(root, path)) for path, *_ in batch})  # as quotes look
        entries.append({"directory": directory, "file": source, "arguments": [*kept, *beside, *plain_vector, source]})
        print(source)
json.dump(entries, open(os.path.join(scratch, "compile_commands.json"), "w"))
print(f"tidy: {len(done)} files in {len(entries)} groups", file=sys.stderr)
EOF

# A group's output appears at once and only when something is wrong. The path-sensitive analyzer reads src/ only: of a test
# it takes nine tenths of the time, and the sanitizers walk those paths when the test runs.
check() {
  local output status=0 checks=
  [[ $3 != *_test_*.cc ]] || checks=-clang-analyzer-*
  output=$("$1" -p "$2" --config-file=.clang-tidy --checks="$checks" --quiet "$3" 2>&1) || status=$?
  if ((status != 0)); then
    printf 'tidy: %s (clang-tidy ended with %d)\n%s\n' "$3" "$status" "$output"
    return 1
  fi
}
export -f check
if ! xargs -P "${TIDY_JOBS:-$(nproc)}" -I{} bash -c 'check "$@"' _ "$tidy" "$scratch" {} < "$scratch/files"; then
  echo "clang-tidy: warnings in some files" >&2
  exit 1
fi
echo "clang-tidy: clean"
