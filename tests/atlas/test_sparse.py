"""Kept windows alone give what the whole image gives with the other windows masked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atlas import Atlas, Runtime, WindowBatch, preset
from atlas.dense import DenseImage, dense_case, dense_stem
from atlas.layout import WindowTree
from atlas.streaming import stem_tokens

# windows of 64 px, s = 2: 4 scales at 257..512 px
SMALL = {
    "window_tokens": 4,
    "downsample": 2,
    "dim": 24,
    "heads": 2,
    "depths": (1, 1, 1),
    "position_hidden": 16,
}
VARIANTS = {
    "slim": {},
    "slim blocks": {"stem_blocks": (1, 1, 1), "context": "attention"},
    "reference stem": {"stem": "reference", "context": "attention"},
    "reference head": {"head": "reference"},
    "kinds, no rotation": {"image_kinds": 4, "rope": False},
    "shared weights": {"depths": (1, 2)},
    "own statistics": {"pixel_norm": "window"},
}
SIZES = [(512, 512), (500, 310), (64, 700), (129, 97)]  # 4, 4, 5 and 3 scales


def build(**changes) -> Atlas:
    torch.manual_seed(0)
    cfg = preset("tiny", task="multiclass", n_outputs=3, **{**SMALL, **changes})
    model = Atlas(cfg, Runtime(backend="plain", chunk_windows=9)).double().eval()
    if model.kind is not None:
        torch.nn.init.normal_(model.kind.weight)
    return model


def images_and_batch(sizes, keep: float, cases=None, seed: int = 0) -> tuple[list[DenseImage], WindowBatch]:
    """Whole images with a random mask, and the same as kept windows in random order."""
    rng = torch.Generator().manual_seed(seed)
    images, windows, places = [], [], []
    for i, (height, width) in enumerate(sizes):
        pixels = torch.rand(3, height, width, generator=rng, dtype=torch.float64)
        rows, cols = -(-height // 64), -(-width // 64)
        mask = torch.rand(rows, cols, generator=rng) < keep
        mask[torch.randint(rows, (1,), generator=rng), torch.randint(cols, (1,), generator=rng)] = True
        mpp = (0.5 + 0.1 * i, 0.5)
        images.append(DenseImage(pixels, mask, mpp, kind=i % 4))
        padded = torch.full((3, rows * 64, cols * 64), 7.0, dtype=torch.float64)  # beyond the image: rubbish
        padded[:, :height, :width] = pixels
        for row, col in torch.nonzero(mask).tolist():
            windows.append(padded[:, row * 64 : row * 64 + 64, col * 64 : col * 64 + 64])
            places.append((i, row, col))
    order = torch.randperm(len(windows), generator=rng)
    place = torch.tensor(places)[order]
    batch = WindowBatch(
        torch.stack(windows)[order], place[:, 1], place[:, 2], place[:, 0], torch.tensor(sizes),
        torch.tensor([im.mpp for im in images], dtype=torch.float64),
        torch.tensor(cases if cases is not None else range(len(sizes))),
        torch.tensor([im.kind for im in images]),
    )  # fmt: skip
    return images, batch


def token_maps(batch: WindowBatch, maps_NTO: torch.Tensor, image: int, n: int) -> torch.Tensor:
    """Maps of one image as a raster (n, n, O)."""
    grid = torch.zeros(n, n, maps_NTO.shape[-1], dtype=maps_NTO.dtype)
    for i in torch.nonzero(batch.image_N == image)[:, 0].tolist():
        row, col = int(batch.row_N[i]) * 4, int(batch.col_N[i]) * 4
        grid[row : row + 4, col : col + 4] = maps_NTO[i].unflatten(0, (4, 4)).detach()
    return grid


@pytest.mark.parametrize("keep", [1.0, 0.4], ids=["all windows", "ragged"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_equals_dense(variant: str, keep: float):
    model = build(**VARIANTS[variant])
    cases = [0, 1, 1, 2]
    images, batch = images_and_batch(SIZES, keep, cases)
    out = model(batch, maps=True)
    for case in range(3):
        mine = [i for i, c in enumerate(cases) if c == case]
        want, maps = dense_case(model, [images[i] for i in mine])
        torch.testing.assert_close(out.logits_BO[case], want, rtol=1e-12, atol=1e-13)
        for i, dense_map in zip(mine, maps, strict=False):
            got = token_maps(batch, out.contribution_NTO, i, len(dense_map))
            torch.testing.assert_close(got, dense_map, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("variant", ["slim", "slim blocks", "reference stem", "own statistics"])
def test_gradients_equal_dense(variant: str):
    model = build(**VARIANTS[variant])
    images, batch = images_and_batch([(500, 310)], 0.4)
    batch.pixels_NCHW.requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (model(batch).logits_BO[0] * weights).sum().backward()
    sparse = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    images[0].pixels_Chw.requires_grad_()
    (dense_case(model, images)[0] * weights).sum().backward()
    for name, p in model.named_parameters():
        assert (sparse[name] - p.grad).norm() <= 1e-11 * p.grad.norm().clamp_min(1e-6), name
    image_grad = images[0].pixels_Chw.grad
    for i in range(len(batch)):
        y, x = int(batch.row_N[i]) * 64, int(batch.col_N[i]) * 64
        want = image_grad[:, y : y + 64, x : x + 64]
        got = batch.pixels_NCHW.grad[i]
        torch.testing.assert_close(got[:, : want.shape[1], : want.shape[2]], want, rtol=1e-9, atol=1e-14)
        assert got[:, want.shape[1] :].abs().sum() == got[:, :, want.shape[2] :].abs().sum() == 0
    off_tissue = image_grad.clone()
    for row, col in torch.nonzero(images[0].keep_RC).tolist():
        off_tissue[:, row * 64 : row * 64 + 64, col * 64 : col * 64 + 64] = 0
    assert off_tissue.abs().sum() == 0


def test_own_statistics_take_stain_and_brightness_away():
    """Every window with its own gain and offset per channel: the same logits; not so with the cohort's."""
    _, batch = images_and_batch([(500, 310)], 0.7)
    n = len(batch)
    gain = 0.5 + torch.rand(n, 3, 1, 1, dtype=torch.float64)
    batch.pixels_NCHW = 0.5 + 20 * (batch.pixels_NCHW - 0.5)  # far from the least spread
    changed = replace(batch, pixels_NCHW=batch.pixels_NCHW * gain + torch.randn_like(gain))
    own, cohort = build(pixel_norm="window"), build()
    torch.testing.assert_close(own(changed).logits_BO, own(batch).logits_BO, rtol=1e-3, atol=1e-4)
    assert (cohort(changed).logits_BO - cohort(batch).logits_BO).abs().max() > 1e-3
    even = replace(batch, pixels_NCHW=torch.full_like(batch.pixels_NCHW, 0.93))
    assert own(even).logits_BO.isfinite().all()


def test_background_changes_nothing():
    model = build()
    images, _ = images_and_batch([(500, 310)], 0.4)
    before, _ = dense_case(model, images)
    kept_px = images[0].keep_RC.repeat_interleave(64, 0).repeat_interleave(64, 1)[:500, :310]
    noise = 1e3 * torch.randn(3, 500, 310, dtype=torch.float64)
    images[0].pixels_Chw = torch.where(kept_px, images[0].pixels_Chw, noise)
    torch.testing.assert_close(dense_case(model, images)[0], before, rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["slim", "slim blocks", "reference stem"])
@pytest.mark.parametrize("pieces", [1000, 5], ids=["at once", "pieces"])
def test_tiled_stem_equals_whole_image_stem(variant: str, pieces: int):
    model = build(**VARIANTS[variant])
    model.runtime.stem_windows = pieces
    images, batch = images_and_batch([(500, 310)], 0.6)
    tree = WindowTree.of(batch, model.cfg)
    with torch.no_grad():
        tiled = stem_tokens(model, batch, tree)[tree.place_N]
        kept_px = images[0].keep_RC.repeat_interleave(64, 0).repeat_interleave(64, 1)[:500, :310]
        whole = dense_stem(model, images[0].pixels_Chw, kept_px)
    for i in range(len(batch)):
        y, x = int(batch.row_N[i]) * 4, int(batch.col_N[i]) * 4
        want = whole[:, y : y + 4, x : x + 4]
        got = tiled[i].T.unflatten(1, (4, 4))[:, : want.shape[1], : want.shape[2]]
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def test_transposed_image_gives_transposed_map():
    """With transposed kernels and swapped position axes, the map of x^T is the transposed map of x."""
    model, mirrored = build(stem_blocks=(1, 1, 1)), build(stem_blocks=(1, 1, 1))
    with torch.no_grad():
        for name, p in mirrored.named_parameters():
            if p.ndim == 4:
                p.copy_(p.transpose(2, 3).clone())
            elif name.endswith("position.0.weight"):
                p.copy_(p.flip(1).clone())
            elif ".q." in name or ".kv." in name:
                n_keys = model.cfg.dim
                rotated = p[:n_keys].unflatten(0, (model.cfg.heads, 2, -1)).flip(1).flatten(0, 2)
                p.copy_(torch.cat([rotated, p[n_keys:]]).clone())
    _, batch = images_and_batch([(500, 310), (129, 97)], 0.5, [0, 0])
    out = model(batch, maps=True)
    swapped = WindowBatch(
        batch.pixels_NCHW.transpose(2, 3), batch.col_N, batch.row_N, batch.image_N, batch.size_I2.flip(1),
        batch.mpp_I2.flip(1), batch.case_I,
    )  # fmt: skip
    out_t = mirrored(swapped, maps=True)
    torch.testing.assert_close(out_t.logits_BO, out.logits_BO, rtol=1e-12, atol=1e-13)
    want = out.contribution_NTO.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(out_t.contribution_NTO, want, rtol=1e-9, atol=1e-15)


def test_shift_by_a_top_window_changes_nothing():
    model = build()
    _, batch = images_and_batch([(500, 310), (129, 97)], 0.5, [0, 0])
    tree = WindowTree.of(batch, model.cfg)
    stem = stem_tokens(model, batch, tree)
    want = model.read(stem, tree, maps=True)
    top_side = 4 * 2 ** (tree.n_scales - 1)  # in scale-0 tokens
    for scale in tree.scales:
        scale.origin_um_W2 = scale.origin_um_W2 + top_side * tree.scales[0].pitch_um_W2[0]
    got = model.read(stem, tree, maps=True)
    torch.testing.assert_close(got.logits_BO, want.logits_BO, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(got.contribution_NTO, want.contribution_NTO, rtol=1e-8, atol=1e-13)


def test_fine_windows_know_where_they_are():
    """Swapping two windows that are alike to the published model changes ours."""
    _, batch = images_and_batch([(500, 500)], 1.0)
    blind, ours = build(rope=False, stem_blocks=(0, 0, 0)), build(stem_blocks=(0, 0, 0))
    far = torch.nonzero((batch.row_N == 0) & (batch.col_N == 0))[0, 0]
    near = torch.nonzero((batch.row_N == 1) & (batch.col_N == 1))[0, 0]

    def change(model: Atlas) -> float:
        tree = WindowTree.of(batch, model.cfg)
        stem = stem_tokens(model, batch, tree)
        swapped = stem.clone()
        a, b = tree.place_N[far], tree.place_N[near]
        swapped[a], swapped[b] = stem[b], stem[a]
        layer = model.stages[0][0].layers[0]
        turn = layer.tables(tree.scales[0], stem.dtype)
        before, after = layer.queries(stem, turn), layer.queries(swapped, turn)
        return float((before[a] - after[b]).detach().abs().max())

    assert change(blind) == 0.0
    assert change(ours) > 1e-3
