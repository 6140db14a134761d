#!/usr/bin/env bash
# Installs what the build, the tests and the quickstart need (Debian 12 packages). Quick when nothing is missing.
#
#   scripts/setup.sh           for the README's commands
#   scripts/setup.sh fuzz      and what scripts/fuzz.sh needs besides
#   scripts/setup.sh pack      and what scripts/pack_dependencies.sh needs besides
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config ccache git ca-certificates
  libtorch-dev libopenblas0-openmp libdnnl-dev libhwy-dev
  libfmt-dev nlohmann-json3-dev libtomlplusplus-dev libcli11-dev zlib1g-dev libssl-dev libxxhash-dev
  libarchive-dev libcurl4-openssl-dev libpcre2-dev libpng-dev
  libgtest-dev
  zstd python3 python3-numpy python3-torch python3-sentencepiece
  dict-gcide
)
case ${1-} in
  "") ;;
  fuzz) packages+=(clang libclang-rt-14-dev libfuzzer-14-dev libomp-dev) ;;
  pack) packages+=(patchelf binutils) ;;
  *) echo "setup: expected no argument, fuzz or pack, got '$1'" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  cat >&2 <<EOF
setup: this is not a Debian system, so nothing was installed. Install the equivalents of
  ${packages[*]}
by hand. libtorch may be any PyTorch 2.x build: pass -DCMAKE_PREFIX_PATH=/path/to/libtorch to cmake.
EOF
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == "install ok installed" ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then exit 0; fi

echo "setup: installing ${missing[*]}"
as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "setup: run as root, or install sudo: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
