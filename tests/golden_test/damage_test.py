"""golden_test must notice damage: changes copies of carried cases and expects the failure to be reported by name.

usage: damage_test.py GOLDEN_TEST GOLDEN_FOLDER
"""

import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

OP, CHECKPOINT = "ops/timestep_norm_03", "checkpoint_tied"


def change_value(path, tensor, index, factor):
    """Multiplies one float32 of a safetensors file."""
    data = bytearray(path.read_bytes())
    header_size = struct.unpack_from("<Q", data)[0]
    entry = json.loads(data[8 : 8 + header_size])[tensor]
    assert entry["dtype"] == "F32", entry
    at = 8 + header_size + entry["data_offsets"][0] + 4 * index
    value = struct.unpack_from("<f", data, at)[0]
    assert value != 0, f"{tensor}[{index}] is zero: damage would not show"
    struct.pack_into("<f", data, at, value * factor)
    path.write_bytes(data)


def largest(path, tensor):
    """The index of a float32 tensor's largest magnitude."""
    data = path.read_bytes()
    header_size = struct.unpack_from("<Q", data)[0]
    begin, end = json.loads(data[8 : 8 + header_size])[tensor]["data_offsets"]
    values = struct.unpack_from(f"<{(end - begin) // 4}f", data, 8 + header_size + begin)
    return max(range(len(values)), key=lambda i: abs(values[i]))


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rename_tensor(stem, old, new):
    """A result that no one expects: renames a tensor in both files."""
    path = stem.with_suffix(".safetensors")
    data = path.read_bytes()
    header_size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + header_size])
    text = json.dumps({new if k == old else k: v for k, v in header.items()}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + header_size :])
    change_json(stem.with_suffix(".json"), lambda c: c["tensors"].update({new: c["tensors"].pop(old)}))


def change_byte(path, tensor):
    """Flips the lowest bit of a tensor's first element."""
    data = bytearray(path.read_bytes())
    header_size = struct.unpack_from("<Q", data)[0]
    data[8 + header_size + json.loads(data[8 : 8 + header_size])[tensor]["data_offsets"][0]] ^= 1
    path.write_bytes(data)


class Damage:
    def __init__(self, binary, golden):
        self.binary, self.golden, self.failures = binary, pathlib.Path(golden), 0

    def carry(self, folder, *paths):
        """Adds files or folders of the carried data to a copy."""
        for path in paths:
            source, target = self.golden / path, folder / path
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)

    def expect_listed(self, *names):
        """Every kind of data in the folder is found: what is not run cannot fail."""
        run = subprocess.run([self.binary, "--list"], env={**os.environ, "MEGALODON_GOLDEN_DIR": str(self.golden)},
                             capture_output=True, text=True)
        missing = [name for name in names if not any(line.startswith(name + " ") for line in run.stdout.splitlines())]
        print(f"BAD  not listed: {missing}" if missing else "ok   everything is listed")
        self.failures += len(missing)

    def expect(self, what, damage, *words, passes=False):
        """Runs the op case in a fresh copy after damage(folder); a failing run must say all the words in one line."""
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            stem = folder / OP
            stem.parent.mkdir()
            for suffix in (".json", ".safetensors"):
                shutil.copyfile(f"{self.golden / OP}{suffix}", f"{stem}{suffix}")
            index = [e for e in json.loads((self.golden / "index.json").read_text()) if e["file"] == OP]
            (folder / "index.json").write_text(json.dumps(index))
            damage(folder, stem)
            run = subprocess.run([self.binary], env={**os.environ, "MEGALODON_GOLDEN_DIR": str(folder)}, capture_output=True, text=True)
            output = run.stdout + run.stderr
            if passes:
                good = run.returncode == 0 and "1 run, 1 passed, 0 failed" in output
            else:
                good = run.returncode == 1 and any(all(w in line for w in words) for line in output.splitlines())
            print(("ok   " if good else "BAD  ") + what)
            if not good:
                print(f"     exit code {run.returncode}, wanted {'a pass' if passes else words}:\n{output}")
                self.failures += 1


def main():
    test = Damage(*sys.argv[1:3])
    tensors = lambda stem: stem.with_suffix(".safetensors")
    output_index = largest(tensors(test.golden / OP), "out.y")
    gradient_index = largest(tensors(test.golden / OP), "grad.weight")

    test.expect("undamaged", lambda folder, stem: None, passes=True)
    test.expect("pairs without an index", lambda folder, stem: (folder / "index.json").unlink(), passes=True)
    test.expect("an output value", lambda folder, stem: change_value(tensors(stem), "out.y", output_index, 1.0001),
                "FAIL", OP, "out.y[", "got", "expected", "tolerance")
    test.expect("a gradient value", lambda folder, stem: change_value(tensors(stem), "grad.weight", gradient_index, 1.0005),
                "FAIL", OP, f"grad.weight[{gradient_index}]", "tolerance")
    test.expect("NaN in an output", lambda folder, stem: change_value(tensors(stem), "out.y", 5, float("nan")),
                "FAIL", OP, "out.y", "nan")
    test.expect("an input value", lambda folder, stem: change_value(tensors(stem), "in.x", 0, 1.5), "FAIL", OP)
    test.expect("an unknown kind", lambda folder, stem: [change_json(stem.with_suffix(".json"), lambda c: c.update(kind="wavelet")),
                                                         (folder / "index.json").unlink()], "FAIL", OP, "wavelet")
    test.expect("an index of another kind", lambda folder, stem: change_json(folder / "index.json", lambda c: c[0].update(kind="cema")),
                "FAIL", OP, "cema")
    test.expect("a missing tensor file", lambda folder, stem: tensors(stem).unlink(), "FAIL", OP, ".safetensors")
    test.expect("a missing description", lambda folder, stem: stem.with_suffix(".json").unlink(), "FAIL", OP, ".json")
    test.expect("a truncated tensor file", lambda folder, stem: os.truncate(tensors(stem), 1000), "FAIL", OP)
    test.expect("a truncated description", lambda folder, stem: os.truncate(stem.with_suffix(".json"), 100), "FAIL", OP, "JSON")
    test.expect("a result nobody knows", lambda folder, stem: rename_tensor(stem, "out.mean", "out.skewness"),
                "FAIL", OP, "out.skewness", "not compared")
    test.expect("an empty folder", lambda folder, stem: [shutil.rmtree(stem.parent), (folder / "index.json").unlink()],
                "no reference data")
    def generated_token(folder, stem):
        test.carry(folder, "models/generate.json", "models/generate.safetensors")
        (folder / "index.json").unlink()
        change_byte(folder / "models/generate.safetensors", "out.tokens.1")

    def multiplier(folder, stem):
        test.carry(folder, "train/lr_schedules.json")
        change_json(folder / "train/lr_schedules.json", lambda c: c["cases"][1]["multiplier"].__setitem__(6, 0.98))

    def preset(change):
        def damage(folder, stem):
            test.carry(folder, "presets/state_dict_keys.json")
            change_json(folder / "presets/state_dict_keys.json", lambda c: change(c["presets"]["mega200M"]))

        return damage

    def checkpoint_without_weights(folder, stem):
        test.carry(folder, CHECKPOINT)
        (folder / CHECKPOINT / "consolidated.pth").unlink()

    test.expect("a generated token", generated_token, "FAIL", "models/generate", "out.tokens.1[0]", "exactly")
    test.expect("a learning rate", multiplier, "FAIL", "lr_schedules", "multiplier (table 1, cosine)[6]")
    test.expect("a parameter's shape", preset(lambda p: p["keys"][0].update(shape=[32000, 1023])), "FAIL", "mega200M", "embed.weight")
    test.expect("a parameter count", preset(lambda p: p.update(trainable_parameters=1)), "FAIL", "mega200M", "expected 1")
    test.expect("a preset's configuration", preset(lambda p: p["config"].update(swiglu=True)), "FAIL", "mega200M", "configuration")
    test.expect("a checkpoint without its case", lambda folder, stem: test.carry(folder, CHECKPOINT), "FAIL", CHECKPOINT,
                "no model case")
    test.expect("a checkpoint without weights", checkpoint_without_weights, "FAIL", CHECKPOINT, "consolidated.pth")
    test.expect_listed(OP, CHECKPOINT, "train/lr_schedules", "train/adamw_m5", "presets/mega200M", "presets/mega7.3B",
                       "s4/hippo_legs_N4", "s4/s4_block_nplr_legs_L64")
    sys.exit(1 if test.failures else 0)


if __name__ == "__main__":
    main()
