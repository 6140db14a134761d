#!/usr/bin/env python3
"""Checks that the PyTorch peers are the models they claim to be; exit code 1 when anything differs.

Every whole-model case of the reference data (tests/golden, or MEGALODON_GOLDEN_DIR) is run through
megalodon_torch.Megalodon with its weights: logits, loss and all gradients must agree, also when activations are
recomputed. Names, shapes and numbers of parameters must be those of the presets; a Llama must have about as many and must
not look ahead.
"""
from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import sys

import numpy
import torch
from torch import Tensor

from blocks_torch import count_parameters
from llama_torch import Llama, LlamaConfig
from megalodon_torch import PRESETS, Megalodon, MegalodonConfig

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests/golden"
TOLERANCE = 1e-4  # of the largest magnitude of a tensor
FLOAT32_ULP = 2.0**-23
BUFFERS = ("rope.freqs", "prior_count", "prior_mean", "prior_logv")  # in published checkpoints, but not trained
PARAMETERS = {"byte11m": 11359104, "mega200M": 220627968, "mega1.3B": 1342832640}  # what `megalodon inspect` says
TOO_LARGE = ("mega1.3B",)  # to be built here: its numbers of parameters are computed
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


def main() -> None:
    folder = pathlib.Path(os.environ.get("MEGALODON_GOLDEN_DIR", GOLDEN))
    problems = check_golden(folder) + check_presets(folder) + check_llama_is_causal()
    for problem in problems:
        print(problem, file=sys.stderr)
    print("peers: differ" if problems else "peers: all agree")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
