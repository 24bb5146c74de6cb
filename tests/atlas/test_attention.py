"""All ways to compute multi-scale attention give the numbers and gradients of the written-out one."""

from __future__ import annotations

import os

import pytest
import torch

from atlas import Atlas, Runtime, preset
from atlas.attention import KeyValues, attend

W, H, Q, T, D = 12, 2, 16, 16, 8


def inputs(partial: bool, dtype=torch.float64, device: str = "cpu"):
    """Twelve windows; ten read one of three coarse windows, eight of those one of two coarser ones."""
    rng = torch.Generator().manual_seed(0)

    def leaf(n: int) -> torch.Tensor:
        return torch.randn(n, H, T, D, generator=rng, dtype=torch.float64).to(device, dtype).requires_grad_()

    def valid(n: int) -> torch.Tensor | None:
        if not partial:
            return None
        mask = torch.rand(n, T, generator=rng) < 0.6
        mask[:, 3] = True
        return mask.to(device)

    leaves = [leaf(W), leaf(W), leaf(W), leaf(3), leaf(3), leaf(2), leaf(2)]
    q, k0, v0, k1, v1, k2, v2 = leaves
    first = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, -1, -1], device=device)
    second = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, -1, -1, -1, -1], device=device)
    pairs = zip((k0, k1, k2), (v0, v1, v2), (W, 3, 2), strict=True)
    own, one, two = (KeyValues(torch.stack([k, v], 1), valid(n)) for k, v, n in pairs)
    return q, own, [(one, first, False), (two, second, False)], leaves


def run(backend: str, partial: bool, dtype=torch.float64, device: str = "cpu"):
    q, own, coarse, leaves = inputs(partial, dtype, device)
    out = attend(q, own, coarse, backend)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=device).view_as(out)
    (out.double() * weight).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("partial", [False, True], ids=["all valid", "partial"])
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_backends_equal_the_definition(backend: str, partial: bool):
    for got, want in zip(run(backend, partial), run("plain", partial), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
def test_whole_model_on_every_backend(random_batch, backend: str):
    torch.manual_seed(0)
    small = {"window_tokens": 4, "downsample": 2, "dim": 32, "heads": 2, "depths": (1, 1, 1)}
    model = Atlas(preset("tiny", **small, context="attention"), Runtime("plain", chunk_windows=5)).double()
    batch = random_batch(
        [(500, 310), (70, 64), (130, 200)], cases=[0, 0, 1], window_px=64, dtype=torch.float64
    )
    found = {}
    for name in ("plain", backend):
        model.runtime.backend = name
        model.zero_grad()
        logits = model(batch).logits_BO
        logits.sum().backward()
        found[name] = [logits.detach(), *(p.grad.clone() for p in model.parameters())]
    for got, want in zip(found[backend], found["plain"], strict=True):
        assert (got - want).norm() <= 1e-11 * want.norm().clamp_min(1e-6)


def test_varlen_refuses_shuffled_windows():
    q, own, coarse, _ = inputs(False)
    kv, at, complete = coarse[0]
    with pytest.raises(ValueError, match="tree order"):
        attend(q, own, [(kv, at.flip(0), complete)], "varlen")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype: torch.dtype):
    for backend in ("plain", "sdpa", "varlen"):
        for got, want in zip(run(backend, True, dtype), run("plain", True), strict=True):
            assert (got.double() - want).norm() <= 0.02 * want.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", ["sdpa", "varlen"])
@pytest.mark.parametrize("partial", [False, True], ids=["all valid", "partial"])
def test_gpu_kernels_equal_the_definition(backend: str, partial: bool):
    for got, want in zip(run(backend, partial, torch.bfloat16, "cuda"), run("plain", partial), strict=True):
        assert (got.double().cpu() - want).norm() <= 0.02 * want.norm()


def test_autocast_keeps_logits_wide(random_batch):
    torch.manual_seed(0)
    model = Atlas(preset("tiny")).eval()
    batch = random_batch([(700, 600)])
    want = model(batch).logits_BO
    with torch.autocast("cpu", torch.bfloat16):
        out = model(batch, maps=True)
    assert out.logits_BO.dtype == out.contribution_NTO.dtype == torch.float32
    assert float((out.logits_BO - want).detach().abs().max()) < 0.05
    total = out.contribution_NTO.sum() + out.bias_O.sum()
    torch.testing.assert_close(total, out.logits_BO.sum(), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("ATLAS_PATH_SLOW"), reason="compiles for minutes: set ATLAS_PATH_SLOW=1"
)
def test_compiled_for_any_number_of_windows(random_batch):
    """Same logits and gradients; the second batch, of another size, compiles nothing new."""
    torch.manual_seed(0)
    small = {"window_tokens": 4, "downsample": 2, "dim": 32, "heads": 2}
    model = Atlas(preset("tiny", **small), Runtime(chunk_windows=5))
    graphs = []
    for sizes in ([(500, 310)], [(300, 410), (100, 70)]):
        batch = random_batch(sizes, window_px=64)
        found = {}
        for compiled in (False, True):
            model.runtime.compile = compiled
            model.zero_grad()
            logits = model(batch).logits_BO
            logits.sum().backward()
            found[compiled] = [logits.detach(), *(p.grad.clone() for p in model.parameters())]
        for got, want in zip(found[True], found[False], strict=True):
            assert (got - want).norm() <= 1e-4 * want.norm().clamp_min(1e-6)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] > 0
