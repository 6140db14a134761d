#!/usr/bin/env bash
# Collects what a build needs besides compiler, CMake, CUDA and PyTorch into one folder, for a machine that has no network
# and no root: a node of a GPU cluster, say, with any glibc from Debian 12's (2.36) on. Runs on Debian 12, after
# scripts/setup.sh pack.
#
#   scripts/pack_dependencies.sh DIR      writes DIR/{bin,include,lib,share}; the last line says how to build with them
#
# Libraries are shared ones, each with all that it needs but the C and C++ runtime, and find each other wherever DIR is.
set -euo pipefail

fail() {
  echo "pack_dependencies: $*" >&2
  exit 1
}

if (($# != 1)) || [[ $1 == -* || -z $1 ]]; then
  echo "usage: scripts/pack_dependencies.sh DIR" >&2
  exit 2
fi
command -v dpkg-query >/dev/null || fail "this is not a Debian system"

# Headers, CMake files and pkg-config files of all, in this order the libraries to link with.
packages=(libfmt-dev nlohmann-json3-dev libtomlplusplus-dev libcli11-dev zlib1g-dev libssl-dev libxxhash-dev libarchive-dev
  libcurl4-openssl-dev libpcre2-dev libpng-dev libhwy-dev libgtest-dev)
shared=(fmt tomlplusplus z crypto xxhash archive curl pcre2-8 png16 hwy)
static=(gtest gtest_main)
unused='/(libssl|openssl|libpcre2-(16|32|posix)|libhwy-(contrib|test))\.pc$|/cmake/hwy/'
# Of the C and C++ runtime, which is the target's own.
runtime='^(ld-linux.*|lib(c|m|mvec|dl|rt|pthread|resolv|util|nsl|anl|gcc_s|stdc\+\+|gomp))\.so'

for package in "${packages[@]}" pkgconf-bin patchelf binutils g++; do
  [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == "install ok installed" ]] ||
    fail "$package is not installed; run: scripts/setup.sh pack"
done

marker=.megalodon_dependencies
mkdir -p "$1"
target=$(cd "$1" && pwd)
[[ -e $target/$marker || -z $(ls -A "$target") ]] || fail "$target is neither empty nor an earlier pack"
touch "$target/$marker"
rm -rf "${target:?}"/{bin,include,lib,share}
mkdir -p "$target"/{bin,include,lib/cmake,lib/pkgconfig,share/cmake}

multiarch=$(g++ -print-multiarch)
system=/usr/lib/$multiarch

# The files of the packages; what Debian keeps apart by architecture comes together.
for package in "${packages[@]}"; do
  while read -r file; do
    [[ -f $file && ! $file =~ $unused ]] || continue
    case $file in
      /usr/include/*) to=include/${file#/usr/include/} && to=${to/#include\/$multiarch\//include/} ;;
      "$system"/cmake/*) to=lib/cmake/${file#"$system"/cmake/} ;;
      /usr/share/cmake/*) to=share/cmake/${file#/usr/share/cmake/} ;;
      */pkgconfig/*.pc) to=lib/pkgconfig/${file##*/} ;;
      *) continue ;;
    esac
    mkdir -p "$target/${to%/*}"
    cp "$file" "$target/$to"
  done < <(dpkg -L "$package")
done

# lib is one folder less deep than lib/x86_64-linux-gnu: the CMake files find their prefix from where they are.
find "$target/lib/cmake" -name '*.cmake' -exec sed -i \
  -e "s|/lib/$multiarch|/lib|g" \
  -e 's|{CMAKE_CURRENT_LIST_DIR}/\.\./\.\./\.\./\.\.|{CMAKE_CURRENT_LIST_DIR}/../../..|' \
  -e '0,/^get_filename_component(_IMPORT_PREFIX "${_IMPORT_PREFIX}" PATH)$/{//d}' {} +
# Shared libraries know what they need themselves, hence nothing private.
# shellcheck disable=SC2016  # pkg-config's variables
sed -i -E -e "s#/(lib|include)/$multiarch#/\1#g" -e 's#^prefix=.*#prefix=${pcfiledir}/../..#' \
  -e 's#(=|-I|-L)/usr/#\1${pcfiledir}/../../#g' -e '/^(Requires|Libs)\.private:/d' "$target"/lib/pkgconfig/*.pc

# pack_binary FILE FOLDER RUNPATH: under its own name.
pack_binary() {
  local to=$target/$2/${1##*/}
  [[ ! -e $to ]] || return 0
  cp "$1" "$to"
  chmod u+w "$to"
  strip --strip-unneeded "$to"
  patchelf --set-rpath "$3" "$to"
}

# pack_library FILE: and its name for the loader, and all that it needs. The data of ICU, 30 MB for what libxml2 inside
# libarchive's XAR reader could convert, are left out: an empty table takes their place, which ICU reports as missing.
pack_library() {
  local real name
  real=$(readlink -f "$1")
  name=$(objdump -p "$real" | awk '$1 == "SONAME" {print $2}')
  if [[ $name == libicudata.so.* ]]; then
    echo "const char icudt${name##*.}_dat[16] = {0};" |
      gcc -shared -nostdlib -fPIC -Wl,-soname,"$name" -x c - -o "$target/lib/$name"
    return
  fi
  pack_binary "$real" lib "\$ORIGIN"
  [[ $name == "${real##*/}" ]] || ln -sf "${real##*/}" "$target/lib/$name"
}

# needed FILE...: the libraries that these need, and those need, but the runtime.
needed() {
  ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u | while read -r library; do
    [[ ${library##*/} =~ $runtime ]] || echo "$library"
  done
}

sources=()
for name in "${shared[@]}"; do
  sources+=("$system/lib$name.so")
  pack_library "$system/lib$name.so"
  ln -sf "$(objdump -p "$system/lib$name.so" | awk '$1 == "SONAME" {print $2}')" "$target/lib/lib$name.so"
done
for library in $(needed "${sources[@]}" /usr/bin/pkgconf); do
  pack_library "$library"
done
for name in "${static[@]}"; do
  cp "$system/lib$name.a" "$target/lib/"
  strip --strip-unneeded "$target/lib/lib$name.a"
done

# CMake looks for pkg-config in the prefixes it was given, before the system's.
pack_binary /usr/bin/pkgconf bin "\$ORIGIN/../lib"
ln -sf pkgconf "$target/bin/pkg-config"

# Everything here, nothing of the system's: the loader and pkg-config are asked.
missing=$(find "$target/lib" -name '*.so*' -type f -exec env -u LD_LIBRARY_PATH ldd {} + |
  awk -v target="$target/" '/not found/ || ($2 == "=>" && index($3, target) != 1) {print $1}' | sort -u)
for library in $missing; do
  [[ $library =~ $runtime ]] || fail "$library was not packed"
done
for file in "$target"/lib/pkgconfig/*.pc; do
  module=${file##*/}
  PKG_CONFIG_LIBDIR=$target/lib/pkgconfig "$target/bin/pkg-config" --cflags --libs "${module%.pc}" >/dev/null ||
    fail "pkg-config does not find ${module%.pc} in $target"
done

echo "packed $(du -sm "$target" | cut -f1) MB into $target; to build with it there:"
echo "  cmake -S . -B build/release -G Ninja -DCMAKE_PREFIX_PATH=\"$target;\$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)')\""
