#!/usr/bin/env python3
"""Checks that the PyTorch peers are the models they claim to be; exit code 1 when anything differs.

Every whole-model case of the reference data (tests/golden, or MEGALODON_GOLDEN_DIR) is run through
megalodon_torch.Megalodon with its weights: logits, loss and all gradients must agree, also when activations are
recomputed. Names, shapes and numbers of parameters must be those of the presets; a Llama must have about as many and must
not look ahead. Its GGUF files for llama.cpp must hold it, in the format's own bytes: llama.cpp itself is not needed.
"""
from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import struct
import sys
import tempfile

import numpy
import torch
from torch import Tensor

import gguf
from blocks_torch import count_parameters
from llama_cpp import gguf_name, metadata, save_gguf
from llama_cpp_run import repeated_state
from llama_torch import Llama, LlamaConfig
from megalodon_torch import PRESETS, Megalodon, MegalodonConfig

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden"
TOLERANCE = 1e-4  # of the largest magnitude of a tensor
FLOAT32_ULP = 2.0**-23
BUFFERS = ("rope.freqs", "prior_count", "prior_mean", "prior_logv")  # in published checkpoints, but not trained
PARAMETERS = {"byte11m": 11359104, "mega200M": 220627968, "mega1.3B": 1342832640}  # what `megalodon inspect` says
TOO_LARGE = ("mega1.3B",)  # to be built here: its numbers of parameters are computed
# Of the largest magnitude of 32 numbers: half a step, and the rounding of its float16 size; Q4_0 has no +8.
ROUNDING = {"f16": 2.0**-11, "q8_0": 0.6 / 127, "q4_0": 1.01 / 8}
DTYPES = {"F32": numpy.float32, "F64": numpy.float64, "I64": numpy.int64}


def read_safetensors(path: pathlib.Path) -> dict[str, Tensor]:
    """The format is: header length (uint64), header (JSON), data."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__" and entry["dtype"] in DTYPES:
            begin, end = (start + offset for offset in entry["data_offsets"])
            values = numpy.frombuffer(content[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = torch.from_numpy(values.copy())
    return tensors


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}


def config_of(case: dict) -> MegalodonConfig:
    known = {field.name for field in dataclasses.fields(MegalodonConfig)}
    return MegalodonConfig(**{key: value for key, value in case.items() if key in known and value is not None})


def check_case(path: pathlib.Path, case: dict, recomputes: bool) -> list[str]:
    """Runs one whole model, with or without keeping its activations; returns what differs."""
    tensors = read_safetensors(path.with_suffix(".safetensors"))
    model = Megalodon(config_of(case["config"]))
    model.load_state_dict({name: value for name, value in with_prefix(tensors, "param.").items()
                           if not name.endswith(BUFFERS)})
    for layer in model.layers:
        layer.recomputes = recomputes
    logits = model(tensors["in.tokens"])
    loss = model.loss(tensors["in.tokens"], tensors["in.targets"])
    loss.backward()

    gradients = {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
    # A gradient that cancels keeps the rounding errors of its terms.
    noise = FLOAT32_ULP * max(tensors[name].abs().max().item() for name in gradients)
    worst, problems = 0.0, []
    for name, value in {"out.logits": logits, "out.loss": loss, **gradients}.items():
        expected = tensors[name]
        difference = (value.detach() - expected).abs().max().item()
        relative = difference / expected.abs().max().item()
        worst = max(worst, relative)
        if not relative <= TOLERANCE and not (name in gradients and difference <= noise):
            problems.append(f"{path.stem}: {name} differs by {relative:.1e} of its largest magnitude")
    print(f"{path.stem}{', recomputed' if recomputes else ''}: loss {loss.item():.6f}, {len(gradients) + 2} tensors, "
          f"largest relative difference {worst:.1e}")
    return problems


def check_golden(folder: pathlib.Path) -> list[str]:
    problems, cases = [], 0
    for path in sorted(folder.glob("models/*.json")):
        case = json.loads(path.read_text())
        if case["kind"] == "model":
            cases += 1
            problems += check_case(path, case, recomputes=False) + check_case(path, case, recomputes=True)
    return problems if cases else [f"{folder}: no whole-model case"]


def layer_of(name: str) -> int:
    """Of a parameter; -1 for one outside the layers."""
    return int(name.split(".")[1]) if name.startswith("layers.") else -1


def check_presets(folder: pathlib.Path) -> list[str]:
    path = folder / "presets/state_dict_keys.json"
    if not path.exists():
        return [f"{path}: missing"]
    published = json.loads(path.read_text())["presets"]
    problems = []
    for preset, config in PRESETS.items():
        count = config.parameter_count()
        if count != PARAMETERS[preset]:
            problems.append(f"{preset}: {count} parameters, expected {PARAMETERS[preset]}")
        # Of a large one, its first layer and what is outside the layers.
        built = dataclasses.replace(config, num_layers=1) if preset in TOO_LARGE else config
        megalodon = Megalodon(built)
        if count_parameters(megalodon) != built.parameter_count():
            problems.append(f"{preset}: parameter_count() says {built.parameter_count()} of {count_parameters(megalodon)}")
        if preset in published:
            expected = {key["key"]: key["shape"] for key in published[preset]["keys"] if key["kind"] == "parameter"}
            if sum(map(math.prod, expected.values())) != count:
                problems.append(f"{preset}: {count} parameters are not as many as the published ones")
            expected = {name: shape for name, shape in expected.items() if layer_of(name) < built.num_layers}
            if {name: list(value.shape) for name, value in megalodon.named_parameters()} != expected:
                problems.append(f"{preset}: names or shapes of parameters are not the published ones")
        llama_config = LlamaConfig.matching(config, count)
        llama_count = llama_config.parameter_count()
        built_llama = dataclasses.replace(llama_config, num_layers=built.num_layers)
        if count_parameters(Llama(built_llama)) != built_llama.parameter_count():
            problems.append(f"{preset}: parameter_count() of the Llama is wrong")
        if abs(llama_count - count) > 0.01 * count:
            problems.append(f"{preset}: Llama has {llama_count} parameters, Megalodon {count}")
        print(f"{preset}: {count} parameters, Llama with ffn {llama_config.ffn_hidden_dim}: {llama_count} "
              f"({llama_count / count - 1:+.2%})")
    return problems


def check_llama_is_causal() -> list[str]:
    """There are no reference numbers for it, but a changed token may change no logits before it, and must after it."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(num_layers=2, model_dim=32, num_heads=2, ffn_hidden_dim=48, vocab_size=61))
    tokens = torch.randint(61, (2, 24))
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 61
    difference = (model(tokens) - model(changed)).abs().amax((0, 2))
    causal = difference[:10].max() < 1e-6 and difference[10:].min() > 1e-6
    print(f"llama: a token changes no logits before it: {'yes' if causal else 'NO'}")
    return [] if causal else ["llama: not causal"]


def check_gguf_bytes(path: pathlib.Path) -> list[str]:
    """Blocks and a file against bytes put together here."""
    up, down = numpy.arange(16), numpy.arange(15, -1, -1)
    one = numpy.float16(1).tobytes()
    x_q4 = numpy.concatenate((up, down)).astype(numpy.float32) - 8
    x_q8 = numpy.array([-127, 127, *range(30)], numpy.float32)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    header += struct.pack("<Q17sII", 17, b"general.file_type", 4, 2) + struct.pack("<Q1sIQ2s", 1, b"k", 8, 2, b"ab")
    header += struct.pack("<Q1sIQQIQ", 1, b"w", 2, 32, 1, 2, 0)
    block = one + bytes(low | high << 4 for low, high in zip(up.tolist(), down.tolist()))
    gguf.write_gguf(path, {"k": "ab"}, {"w": x_q4[None]}, "q4_0")
    same = {
        "q4_0": gguf.to_q4_0(x_q4).tobytes() == block,
        "q8_0": gguf.to_q8_0(x_q8).tobytes() == one + x_q8.astype(numpy.int8).tobytes(),
        "zeros": not gguf.from_q4_0(gguf.to_q4_0(x_q4 * 0)).any() and not gguf.from_q8_0(gguf.to_q8_0(x_q4 * 0)).any(),
        "file": path.read_bytes() == header.ljust(128, b"\0") + block.ljust(32, b"\0"),
    }
    return [f"gguf: {name}: not the format's bytes" for name, equal in same.items() if not equal]


def check_gguf_model(path: pathlib.Path, matrix_type: str) -> list[str]:
    """A Llama written and read back: each number within what its type rounds by."""
    model = Llama(LlamaConfig(num_layers=2, model_dim=64, num_heads=2, ffn_hidden_dim=96, vocab_size=61))
    save_gguf(model, path, matrix_type)
    entries, tensors = gguf.read_gguf(path)
    problems, worst = [], 0.0
    expected = {key: numpy.float32(value) if isinstance(value, float) else value
                for key, value in metadata(model.config).items()}
    if not expected.items() <= entries.items():
        problems.append(f"gguf {matrix_type}: metadata differ")
    if set(tensors) != {gguf_name(name) for name in model.state_dict()}:
        problems.append(f"gguf {matrix_type}: names of tensors differ")
    for name, value in model.state_dict().items():
        read, wanted = tensors[gguf_name(name)], value.numpy()
        largest = numpy.abs(wanted.reshape(-1, 32)).max(1, keepdims=True)
        error = float((numpy.abs(read - wanted).reshape(-1, 32) / largest).max())
        worst = max(worst, error)
        if read.shape != wanted.shape or not error <= (ROUNDING[matrix_type] if value.ndim == 2 else 0):
            problems.append(f"gguf {matrix_type}: {name} differs by {error:.1e} of the largest magnitude of a block")
    print(f"gguf {matrix_type}: {len(tensors)} tensors, {path.stat().st_size} bytes, rounded by up to {worst:.1e}")
    return problems


def check_gguf_refuses(path: pathlib.Path) -> list[str]:
    try:
        gguf.write_gguf(path, {}, {"w": numpy.zeros((2, 48), numpy.float32)}, "q8_0")
    except ValueError as error:
        return [] if "multiples of 32" in str(error) else [f"gguf: rows of 48 numbers: {error}"]
    return ["gguf: rows of 48 numbers were written in blocks of 32"]


def llama_cpp_state(keys: numpy.ndarray, values: numpy.ndarray, transposed: bool) -> numpy.ndarray:
    """What llama.cpp saves of a sequence whose keys and values are float16 [layer, position, D]."""
    layers, length, dim = keys.shape
    state = struct.pack("<4I", 0xABCD, 0, 1, length) + b"".join(struct.pack("<3i", p, 1, 0) for p in range(length))
    state += struct.pack("<II", transposed, layers)
    state += b"".join(struct.pack("<IQ", 1, 2 * dim) + part.tobytes() for part in keys)
    for part in values:
        state += struct.pack("<3I", 1, 2, dim) + part.T.tobytes() if transposed else \
            struct.pack("<IQ", 1, 2 * dim) + part.tobytes()
    return numpy.frombuffer(state, numpy.uint8)


def check_repeated_state() -> list[str]:
    keys, values = numpy.arange(2 * 2 * 3 * 5).astype(numpy.float16).reshape(2, 2, 3, 5)  # [2 layers, 3 positions, 5]
    again = [0, 1, 2, 0, 1, 2, 0]
    problems = []
    for transposed in (False, True):
        state = llama_cpp_state(keys, values, transposed)
        expected = llama_cpp_state(keys[:, again], values[:, again], transposed)
        for length, wanted in ((3, state), (7, expected)):
            if not numpy.array_equal(repeated_state(state, length), wanted):
                problems.append(f"llama.cpp: 3 tokens repeated to {length} differ (transposed: {transposed})")
    return problems


def check_llama_cpp() -> list[str]:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.gguf"
        problems = check_gguf_bytes(path) + check_gguf_refuses(path) + check_repeated_state()
        for matrix_type in ROUNDING:
            problems += check_gguf_model(path, matrix_type)
    return problems


def main() -> None:
    folder = pathlib.Path(os.environ.get("MEGALODON_GOLDEN_DIR", GOLDEN))
    problems = check_golden(folder) + check_presets(folder) + check_llama_is_causal() + check_llama_cpp()
    for problem in problems:
        print(problem, file=sys.stderr)
    print("peers: differ" if problems else "peers: all agree")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
