#!/usr/bin/python3
"""The operator library as a PyTorch user meets it: torch.ops.megalodon.* with autograd, against the reference data.

    MEGALODON_OPS_LIBRARY=build/release/libmegalodon_ops.so /usr/bin/python3 tests/python/ops_test.py

The library and the interpreter's torch must be the same libtorch (on Debian: libtorch-dev and python3-torch).
MEGALODON_GOLDEN_DIR (default: tests/golden) names the reference data; its README has the conventions followed here.
"""
import json
import math
import os
import unittest
from pathlib import Path

import numpy as np
import torch

LIBRARY = os.environ.get("MEGALODON_OPS_LIBRARY", "")
GOLDEN = Path(os.environ.get("MEGALODON_GOLDEN_DIR") or Path(__file__).resolve().parent.parent / "golden")
DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "BOOL": "?"}
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 5e-5  # of a tensor's largest magnitude, what the data's README suggests
ops = torch.ops.megalodon


def setUpModule():
    if not LIBRARY:
        raise RuntimeError("set MEGALODON_OPS_LIBRARY to the path of libmegalodon_ops.so")
    torch.ops.load_library(LIBRARY)


def read_safetensors(path):
    """{name: torch tensor} of one file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + size + begin : 8 + size + end], dtype=DTYPES[entry["dtype"]])
        tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors


class Case:
    """One pair of files: hands out inputs that record gradients, then compares outputs and gradients."""

    def __init__(self, test, path):
        self.test, self.name = test, path.stem
        document = json.loads(path.read_text(encoding="utf-8"))
        self.config = document["config"]
        self.difference = document["float32_vs_float64"]
        self.tensors = read_safetensors(path.with_suffix(".safetensors"))
        self.leaves = {}

    def get(self, name):
        return self.tensors.get(name)

    def leaf(self, name):
        """An input that takes a gradient, or None where the case has no such tensor."""
        if name not in self.leaves and name in self.tensors:
            self.leaves[name] = self.tensors[name].clone().requires_grad_()
        return self.leaves.get(name)

    def compare(self, name, got, tolerance):
        expected = self.tensors[name]
        self.test.assertEqual(got.shape, expected.shape, f"{self.name} {name}")
        if expected.numel() == 0:
            return
        if not expected.is_floating_point():
            self.test.assertTrue(torch.equal(got, expected), f"{self.name} {name}")
            return
        difference = (got.detach().double() - expected.double()).abs().max().item()
        bound = max(tolerance * expected.abs().max().item(), 1e-6)
        self.test.assertLessEqual(difference, bound, f"{self.name} {name}")  # false for NaN

    def finish(self, outputs):
        """Compares every output and every gradient that the case has; all of them must have been computed."""
        # Two float32 results may stand on opposite sides of the exact one, hence twice the measured difference.
        measured = self.difference["outputs"]["max_rel"]
        for name, got in outputs.items():
            if f"out.{name}" in self.tensors:
                self.compare(f"out.{name}", got, max(OUTPUT_TOLERANCE, 2 * measured))
        cotangents = {n: self.tensors[f"in.d{n}"] for n in outputs if f"in.d{n}" in self.tensors}
        self.test.assertEqual({f"in.d{n}" for n in cotangents}, {n for n in self.tensors if n.startswith("in.d")})
        sum((outputs[n] * cotangent).sum() for n, cotangent in cotangents.items()).backward()
        measured = self.difference["gradients"]["max_rel"]
        for name in self.tensors:
            if name.startswith("grad."):
                key = name[len("grad.") :]
                leaf = self.leaves[key if key.startswith("in.") else f"param.{key}"]
                self.test.assertIsNotNone(leaf.grad, f"{self.name} {name}")
                self.compare(name, leaf.grad, max(GRADIENT_TOLERANCE, 2 * measured))


class GoldenTest(unittest.TestCase):
    def run_kind(self, kind, run):
        paths = sorted((GOLDEN / "ops").glob(f"{kind}_[0-9]*.json"))
        self.assertTrue(paths, f"no {kind} cases under {GOLDEN}/ops: set MEGALODON_GOLDEN_DIR")
        for path in paths:
            with self.subTest(case=path.stem):
                case = Case(self, path)
                case.finish(run(case))

    def test_rms_norm(self):
        self.run_kind("rmsnorm", lambda case: {
            "y": ops.rms_norm(case.leaf("in.x"), case.leaf("param.weight"), case.config["eps"])})

    def test_layer_norm(self):
        self.run_kind("layernorm", lambda case: {
            "y": ops.layer_norm(case.leaf("in.x"), case.leaf("param.weight"), case.leaf("param.bias"),
                                case.config["eps"])})

    def test_sequence_norm(self):
        def run(case):
            turn = (lambda t: t.transpose(1, 2)) if case.config["length_last"] else (lambda t: t)
            groups = case.config["num_groups"] or case.config["dim"]
            y, count, mean, rstd = ops.sequence_norm(turn(case.leaf("in.x")), case.leaf("in.scale"),
                                                     case.leaf("in.bias"), groups, case.config["eps"],
                                                     case.get("in.padding_mask"))
            return {"y": turn(y), "count": count, "mean": mean, "rstd": rstd}

        self.run_kind("sequence_norm", run)

    def test_timestep_norm(self):
        def before(case):
            """(count, mean, var) ahead of the first step: given, or the priors; nothing is a start at count 0."""
            if case.get("in.prev_count") is not None:
                return case.get("in.prev_count"), case.leaf("in.prev_mean"), case.leaf("in.prev_var")
            if case.get("param.prior_count") is None or case.get("param.prior_count").item() == 0:
                return None, None, None
            batch = case.config["batch"]
            mean, log_var = case.leaf("param.prior_mean"), case.leaf("param.prior_logv")
            return (case.get("param.prior_count").repeat(batch), mean.expand(batch, -1),
                    log_var.exp().expand(batch, -1))

        def run(case):
            groups = case.config["num_groups"] or case.config["dim"]
            count, mean, var = before(case)
            y, count, mean, var = ops.timestep_norm(
                case.leaf("in.x"), case.leaf("param.weight"), case.leaf("param.bias"), groups, case.config["eps"],
                count=count, mean=mean, var=var, padding_mask=case.get("in.padding_mask"))
            return {"y": y, "count": count, "mean": mean, "var": var}

        self.run_kind("timestep_norm", run)

    def test_rotary(self):
        def run(case):
            start, length = case.config["start"], case.config["length"]
            position = torch.arange(start, start + length).repeat(case.config["batch"], 1)
            base = case.config["base"] or 10000.0
            return {name: ops.rotary(case.leaf(f"in.{name}"), position, base) for name in ("q", "k")}

        self.run_kind("rope", run)

    def test_chunk_attention(self):
        def run(case):
            batch, length = case.config["batch"], case.config["length"]
            chunk, heads = case.config["chunk_size"], case.config["heads"]
            cached = case.config["cached"] or 0
            position = torch.arange(cached, cached + length).remainder(chunk).repeat(batch, 1)
            q, k, v = (case.leaf(f"in.{n}").view(batch, length, heads, -1) for n in "qkv")
            q, k = (ops.rotary(t, position, case.config["base"] or 10000.0) for t in (q, k))
            y = ops.chunk_attention(q, k, v, chunk, prior_k=case.get("in.cache_k"), prior_v=case.get("in.cache_v"))
            return {"y": y.reshape(batch, length, -1)}

        self.run_kind("attention", run)

    def test_linear_recurrence_as_cema(self):
        def run(case):
            order = case.config["ndim"]
            alpha, delta = case.leaf("param.alpha").squeeze(-1), case.leaf("param.delta").squeeze(-1)
            p = torch.sigmoid(alpha)
            theta = torch.sigmoid(case.leaf("param.theta").squeeze(-1)) * (2 * math.pi / order)
            q = torch.polar(1 - p * torch.sigmoid(delta), torch.arange(1, order + 1) * theta)
            c = p * torch.view_as_complex(case.leaf("param.gamma")) / math.sqrt(order)
            hx = case.leaf("in.hx")
            h0 = None if hx is None else torch.view_as_complex(hx) / p  # the published state is p times ours
            y, h = ops.linear_recurrence(case.leaf("in.x").transpose(1, 2), q, c,
                                         case.leaf("param.omega").squeeze(-1), h0=h0, want_state=True)
            return {"y": y.transpose(1, 2), "h": torch.view_as_real(h * p)}

        self.run_kind("cema", run)


class OperatorTest(unittest.TestCase):
    """Ops without reference data: float64 gradients by finite differences, float32 kernels against float64."""

    def setUp(self):
        torch.manual_seed(0)

    def check_parity(self, run, inputs):
        """Outputs and gradients in float32 against float64."""
        results = []
        for dtype in (torch.float32, torch.float64):
            leaves = [x.to(dtype).requires_grad_() for x in inputs]
            y = run(*leaves)
            results.append([y] + list(torch.autograd.grad((y * y).sum(), leaves)))
        for got, expected in zip(*results):
            self.assertEqual(got.dtype, torch.float32)
            bound = 1e-5 * expected.abs().max().item()
            self.assertLessEqual((got.double() - expected).abs().max().item(), bound)

    def test_linear_cross_entropy(self):
        targets = torch.tensor([[2, 0, -100], [6, 6, 1]])
        x, w = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
        run = lambda x, w: ops.linear_cross_entropy(x, w, targets)
        self.assertTrue(torch.autograd.gradcheck(run, (x.requires_grad_(), w.requires_grad_())))
        self.check_parity(run, [x.detach(), w.detach()])
        expected = torch.nn.functional.cross_entropy((x @ w.t()).view(6, 7), targets.view(6), reduction="none")
        self.assertTrue(torch.allclose(run(x, w), expected.view(2, 3)))

    def test_linear(self):
        x, w, b = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
        self.check_parity(ops.linear, [x, w, b])
        self.check_parity(ops.linear, [x, w])
        expected = torch.nn.functional.linear(x.bfloat16().float(), w.bfloat16().float(), b)
        self.assertTrue(torch.allclose(ops.linear(x, w, b, bfloat16=True), expected, atol=1e-5))

    def test_query_key(self):
        batch, length, heads, width = 2, 5, 3, 4
        z = torch.randn(batch, length, heads, width)
        scale, shift = torch.randn(2, heads * width), torch.randn(2, heads * width)
        position = torch.arange(length).repeat(batch, 1) + 1000

        def run(z, scale, shift):
            return torch.cat(ops.query_key(z, scale, shift, position, 1e-5, 10000.0), dim=-1)

        self.check_parity(run, [z, scale, shift])
        u = z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        views = [t.view(2, heads, width) for t in (scale, shift)]
        expected = [ops.rotary(u * views[0][i] + views[1][i], position, 10000.0) for i in range(2)]
        self.assertTrue(torch.allclose(run(z, scale, shift), torch.cat(expected, dim=-1), atol=1e-5))

    def test_gated_silu(self):
        a, b = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
        self.assertTrue(torch.autograd.gradcheck(ops.gated_silu, (a.requires_grad_(), b.requires_grad_())))
        self.assertTrue(torch.autograd.gradcheck(ops.gated_silu, (a,)))
        self.check_parity(ops.gated_silu, [a.detach(), b.detach()])
        self.check_parity(ops.gated_silu, [a.detach()])
        self.assertTrue(torch.allclose(ops.gated_silu(a, b), torch.nn.functional.silu(a) * b))

    def test_state_space_with_a_low_rank_part(self):
        features, states, length = 3, 4, 12
        complex_normal = lambda *shape: torch.randn(*shape, dtype=torch.complex128)
        a = 0.2 * torch.complex(-torch.rand(features, states), torch.randn(features, states)).to(torch.complex128)
        b, p, c = complex_normal(features, states), 0.3 * complex_normal(1, features, states), complex_normal(1, features, states)
        # All states, those that are not stored too.
        whole = lambda z: torch.cat([z, z.conj()], -1)
        one = torch.eye(2 * states, dtype=torch.complex128)
        m = torch.diag_embed(whole(a)) - whole(p[0]).unsqueeze(2) * whole(p[0]).conj().unsqueeze(1)
        step = torch.linalg.solve(one - m / 2, one + m / 2)
        row = torch.matmul(whole(c[0]).unsqueeze(1), one - torch.linalg.matrix_power(step, length))
        attuned = row[:, :, :states].transpose(0, 1).contiguous()

        u, skip = torch.randn(2, length, features, dtype=torch.float64), torch.randn(1, features, dtype=torch.float64)
        kernel = ops.nplr(a, b, p, attuned, length)
        y, _ = ops.nplr_recurrence(u, a, b, p, c[0], skip[0])
        self.assertTrue(torch.allclose(ops.long_convolution(u, kernel, skip), y))
        x = torch.linalg.solve(one - m / 2, whole(b).unsqueeze(2))
        self.assertTrue(torch.allclose(kernel[0, :, 0], torch.matmul(whole(c[0]).unsqueeze(1), x).real.flatten()))
        leaves = [t.clone().requires_grad_() for t in (a, b, p, attuned)]
        self.assertTrue(torch.autograd.gradcheck(lambda *t: ops.nplr(*t, length), leaves))

    def test_fixed_linear(self):
        w, x, bias, addend = torch.randn(70, 50), torch.randn(3, 50), torch.randn(70), torch.randn(3, 70)
        expected = torch.nn.functional.linear(x, w, bias) + addend
        for kind, allowed in (("float32", 1e-6), ("bfloat16", 5e-3), ("q8", 2e-2), ("q4", 0.15)):
            y = ops.fixed_linear(x, ops.fix_matrix(w, kind), kind, 70, bias, addend)
            self.assertLess(((y - expected).norm() / expected.norm()).item(), allowed)

    def test_dropout(self):
        x = torch.randn(1001, requires_grad=True)
        y = ops.dropout(x, 0.25, 7)
        self.assertTrue(torch.equal(y, ops.dropout(x, 0.25, 7)))
        self.assertFalse(torch.equal(y, ops.dropout(x, 0.25, -7)))
        kept = y != 0
        self.assertTrue(torch.allclose(y[kept], x[kept] / 0.75))
        y.sum().backward()
        self.assertTrue(torch.equal(x.grad != 0, kept))

    def test_errors_are_exceptions_with_the_message(self):
        with self.assertRaisesRegex(RuntimeError, r"\[dropout\] p must be in \[0, 1\), got 1.5"):
            ops.dropout(torch.ones(3), 1.5, 0)
        with self.assertRaisesRegex(RuntimeError, r"got 9 at \[1\]"):
            ops.linear_cross_entropy(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 9]))


if __name__ == "__main__":
    unittest.main()
