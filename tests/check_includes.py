#!/usr/bin/python3
"""Holds the sources to the layers of the design. Fails, with one line per offence, when

- an #include "folder/..." under src/ points against the direction
  base <- {io, data, ops} <- nn <- models <- {dist, infer} <- {eval, train, serve} <- apps, or base <- report <- apps;
- a kernel (*_cpu.cc, *_cuda.cu, *.cuh, *_kernel.h) or a file of base (but compat.h), io, data or report reaches torch, directly or
  through other headers of the project: those files compile in a second and serve without libtorch, and must stay so;
- a header lacks #pragma once (but *-inl.h, which Highway compiles once per instruction set).

usage: check_includes.py [--self-test] [REPOSITORY]
"""
import re
import sys
import tempfile
from pathlib import Path

BELOW_MODELS = {"base", "io", "ops", "nn"}
BELOW_INFER = BELOW_MODELS | {"models"}
BELOW_APPS = BELOW_INFER | {"data", "dist", "infer"}
MAY_USE = {
    "base": set(),
    "io": {"base"},
    "data": {"base", "io"},
    "report": {"base"},
    "ops": {"base"},
    "nn": {"base", "ops"},
    "models": BELOW_MODELS,
    "dist": BELOW_INFER,
    "infer": BELOW_INFER | {"data"},
    "eval": BELOW_APPS,
    "train": BELOW_APPS,
    "serve": BELOW_APPS,
    "apps": BELOW_APPS | {"eval", "train", "serve", "report"},
}
WITHOUT_TORCH = {"base", "io", "data", "report"}
TORCH = re.compile(r"(torch|ATen|c10)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
SOURCES = {".h", ".cc", ".cu", ".cuh", ".def"}


def read_includes(path):
    """[(line, quoted, target)] of one file."""
    text = path.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(2)) + 1, m[1] == '"', m[2]) for m in INCLUDE.finditer(text)]


def must_avoid_torch(name):
    if name.endswith(("_cpu.cc", "_cuda.cu", ".cuh", "_kernel.h")):
        return True
    return name.split("/")[0] in WITHOUT_TORCH and name != "base/compat.h"


def path_to_torch(name, includes, seen):
    """The chain of headers by which `name` reaches torch, or None."""
    seen.add(name)
    for _, _, target in includes.get(name, []):
        if TORCH.match(target):
            return [target]
        if target in includes and target not in seen:
            rest = path_to_torch(target, includes, seen)
            if rest is not None:
                return [target] + rest
    return None


def check_directions(name, includes):
    folder = name.split("/")[0]
    if folder not in MAY_USE:
        yield f"src/{name}: {folder}/ has no place in the layers: add it to tests/check_includes.py"
        return
    for line, quoted, target in includes:
        used = target.split("/")[0]
        if quoted and (used in (".", "..") or used == target):
            yield f'src/{name}:{line}: "{target}" must be written as its path from src/'
        elif quoted and used in MAY_USE and used != folder and used not in MAY_USE[folder]:
            allowed = ", ".join(sorted(MAY_USE[folder])) or "nothing"
            yield f'src/{name}:{line}: {folder} may not use "{target}" (allowed: {allowed})'


def check(root):
    """Every offence of the repository at `root`, in the order of files."""
    source = root / "src"
    files = sorted(p for p in source.rglob("*") if p.suffix in SOURCES)
    includes = {p.relative_to(source).as_posix(): read_includes(p) for p in files}
    offences = []
    for name in includes:
        offences += check_directions(name, includes[name])
        chain = path_to_torch(name, includes, set()) if must_avoid_torch(name) else None
        if chain is not None:
            offences.append(f"src/{name}: must do without torch, but includes {' -> '.join(chain)}")
    for path in sorted(source.rglob("*.h")) + sorted((root / "tests").rglob("*.h")):
        once = re.search(r"^#pragma once$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if not once and not path.name.endswith("-inl.h"):
            offences.append(f"{path.relative_to(root).as_posix()}: lacks #pragma once")
    return offences, len(files)


SELF_TEST = {  # file: (text, part of the one offence expected, or None)
    "src/base/good.h": ("#pragma once\n#include <vector>\n", None),
    "src/base/compat.h": ("#pragma once\n#include <torch/torch.h>\n", None),
    "src/base/up.cc": ('#include "base/good.h"\n#include "io/a.h"\n', 'src/base/up.cc:2: base may not use "io/a.h"'),
    "src/base/direct.cc": ("#include <ATen/ATen.h>\n", "src/base/direct.cc: must do without torch, but includes ATen/"),
    "src/io/a.h": ('#pragma once\n#include "base/good.h"\n', None),
    "src/io/b.cc": ('#include "base/compat.h"\n', "src/io/b.cc: must do without torch, but includes base/compat.h ->"),
    "src/io/c.cc": ('#include "../data/d.h"\n', 'src/io/c.cc:1: "../data/d.h" must be written as its path'),
    "src/data/d.h": ('#include "io/a.h"\n', "src/data/d.h: lacks #pragma once"),
    "src/data/e.cc": ('\n#  include "train/t.h"\n', 'src/data/e.cc:2: data may not use "train/t.h"'),
    "src/data/f.cc": ('#include "d.h"\n', 'src/data/f.cc:1: "d.h" must be written as its path'),
    "src/ops/x/x.h": ('#pragma once\n#include "base/compat.h"\n', None),
    "src/ops/x/x_kernel.h": ("#pragma once\n#include <c10/Half.h>\n", "src/ops/x/x_kernel.h: must do without torch"),
    "src/ops/x/x_cpu.cc": ('#include "ops/x/x.h"\n', "src/ops/x/x_cpu.cc: must do without torch, but includes ops/x"),
    "src/ops/x/x_cuda.cu": ('#include "ops/y.cuh"\n', "src/ops/x/x_cuda.cu: must do without torch, but includes ops/y"),
    "src/ops/y.cuh": ("#include <torch/types.h>\n", "src/ops/y.cuh: must do without torch, but includes torch/"),
    "src/ops/x/y_cpu.cc": ('#include "hwy/highway.h"\n#include "ops/x/x-inl.h"\n', None),
    "src/ops/x/x-inl.h": ("#undef TOGGLE\n", None),
    "src/ops/x/x.cc": ('#include "ops/x/x.h"\n// #include "nn/layer.h"\n', None),
    "src/ops/x/io.cc": ('#include "io/a.h"\n', 'src/ops/x/io.cc:1: ops may not use "io/a.h"'),
    "src/nn/layer.h": ('#pragma once\n#include "ops/x/x.h"\n', None),
    "src/nn/up.cc": ('#include "models/m.h"\n', 'src/nn/up.cc:1: nn may not use "models/m.h"'),
    "src/report/r.cc": ('#include "train/t.h"\n', 'src/report/r.cc:1: report may not use "train/t.h"'),
    "src/models/m.cc": ('#include "nn/layer.h"\n#include "io/a.h"\n#include "models/models.def"\n', None),
    "src/models/n.cc": ('#include "data/d.h"\n', 'src/models/n.cc:1: models may not use "data/d.h"'),
    "src/infer/i.cc": ('#include "models/m.h"\n#include "data/d.h"\n', None),
    "src/infer/j.cc": ('#include "train/t.h"\n', 'src/infer/j.cc:1: infer may not use "train/t.h"'),
    "src/train/t.cc": ('#include "eval/e.h"\n', 'src/train/t.cc:1: train may not use "eval/e.h"'),
    "src/eval/e.cc": ('#include "train/t.h"\n', 'src/eval/e.cc:1: eval may not use "train/t.h"'),
    "src/apps/main.cc": ('#include "train/t.h"\n#include "eval/e.h"\n#include "serve/s.h"\n', None),
    "src/misc/m.cc": ("int x;\n", "src/misc/m.cc: misc/ has no place in the layers"),
    "tests/helper.h": ('#include "apps/main.h"\n', "tests/helper.h: lacks #pragma once"),
}


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, (text, _) in SELF_TEST.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        offences, _ = check(root)
    expected = [part for _, part in SELF_TEST.values() if part is not None]
    missed = [part for part in expected if not any(o.startswith(part) for o in offences)]
    invented = [o for o in offences if not any(o.startswith(part) for part in expected)]
    for line in [f"not found: {m}" for m in missed] + [f"not an offence: {i}" for i in invented]:
        print(line)
    if missed or invented or len(offences) != len(expected):
        return 1
    print(f"check_includes: found all {len(expected)} planted offences")
    return 0


def main(arguments):
    if arguments[:1] == ["--self-test"]:
        return self_test()
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    offences, count = check(root)
    for offence in offences:
        print(offence)
    if count == 0:
        print(f"check_includes: no sources under {root}/src")
        return 1
    if not offences:
        print(f"check_includes: {count} files in order")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
