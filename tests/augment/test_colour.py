"""Colour operations against torchvision's formulas in float64."""

import itertools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import torch_views
from ipcl_jax.augment import colour
from ipcl_jax.augment.parameters import ViewParameters
from ipcl_jax.config import Views
from pictures import photograph

# One colour operation in float32: a few roundings of 6e-8; contrast adds those of a mean, hue those
# of two divisions.
COLOUR = 1e-5


def colour_cases() -> dict[str, np.ndarray]:
    """Planes `[3, 64, 64]` in [0, 1], the size of the smallest views. (The library's lie `[64, 3, 64]`.)"""
    rng = np.random.default_rng(0)
    gray = rng.random((1, 64, 64), np.float32)
    return {
        "noise": rng.random((3, 64, 64), np.float32),
        "photograph": photograph("chelsea.png", 64, 64).transpose(2, 0, 1).astype(np.float32) / 255,
        "gray": np.repeat(gray, 3, axis=0),
        "nearly gray": np.clip(np.repeat(gray, 3, axis=0) + rng.choice([0, 6e-8], (3, 64, 64)), 0, 1),
        "black": np.zeros((3, 64, 64)),
        "white": np.ones((3, 64, 64)),
        "dark": rng.random((3, 64, 64)) * 1e-3,
        # Three levels in three channels: two or three channels agree nearly everywhere.
        "ties": rng.integers(0, 3, (3, 64, 64)) / 2,
        "primary colours": rng.integers(0, 2, (3, 64, 64)),
    }


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colour_operations_are_the_formulas_in_float64(name):
    ours = jax.jit(getattr(colour, f"adjust_{name}"))
    amounts = [-0.5, -0.4, -0.1, 0.0, 1 / 6, 0.4, 0.5] if name == "hue" else [0.0, 0.6, 1.0, 1.37, 2.0]
    for case, planes in colour_cases().items():
        planes = planes.astype(np.float32)
        for amount in np.float32(amounts):
            expected = getattr(torch_views, name)(torch.from_numpy(planes).double(), float(amount)).numpy()
            got = np.asarray(ours(planes.swapaxes(0, 1), amount)).swapaxes(0, 1)
            assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1 + 1e-6  # a rounding
            assert np.abs(got - expected).max() < COLOUR, (case, amount)


def test_hue_after_other_operations_is_the_same_fused_and_eager():
    def chain(planes):
        planes = colour.adjust_contrast(colour.adjust_brightness(planes, 1.3), 0.7)
        return colour.adjust_hue(colour.adjust_saturation(colour.adjust_hue(planes, 0.21), 1.4), -0.33)

    fused, fused_batch = jax.jit(chain), jax.jit(jax.vmap(chain))
    for planes in colour_cases().values():
        exact = torch.from_numpy(planes.astype(np.float32)).double()
        exact = torch_views.contrast(torch_views.brightness(exact, 1.3), 0.7)
        exact = torch_views.hue(torch_views.saturation(torch_views.hue(exact, 0.21), 1.4), -0.33).numpy()
        planes = jnp.asarray(planes, jnp.float32).swapaxes(0, 1)
        batch = jnp.stack([planes, planes[::-1]])
        for got in (chain(planes), fused(planes), fused_batch(batch)[0]):
            assert np.abs(np.asarray(got).swapaxes(0, 1) - exact).max() < 5 * COLOUR  # five operations


def test_dm_pix_computes_the_same_hue_but_other_blends():
    image = jnp.asarray(colour_cases()["photograph"].transpose(1, 2, 0))
    ours = {
        name: np.asarray(getattr(colour, f"adjust_{name}")(image.swapaxes(1, 2), amount)).swapaxes(1, 2)
        for name, amount in (("brightness", 1.3), ("contrast", 1.3), ("saturation", 1.3), ("hue", 0.2))
    }
    # Well above rounding (1e-6), below what a difference of definition makes.
    assert np.abs(dm_pix.adjust_brightness(image, 0.3) - ours["brightness"]).max() > 1e-3
    assert np.abs(dm_pix.adjust_contrast(image, 1.3) - ours["contrast"]).max() > 1e-3
    assert np.abs(dm_pix.adjust_saturation(image, 1.3) - ours["saturation"]).max() > 1e-3
    assert np.abs(dm_pix.adjust_hue(image, 0.2) - ours["hue"]).max() < COLOUR


def test_yiqs_hue_is_its_matrix_in_float64():
    def chain(planes, turn):
        return colour.adjust_hue_yiq(colour.adjust_brightness(planes, 1.2), turn)

    for case, planes in colour_cases().items():
        planes = planes.astype(np.float32)
        exact = torch_views.brightness(torch.from_numpy(planes).double(), 1.2)
        for turn in np.float32([-0.5, -0.4, -0.1, 0.0, 0.25, 0.4]):
            expected = torch_views.hue_yiq(exact, float(turn)).numpy()
            lying = jnp.asarray(planes).swapaxes(0, 1)
            batched = jax.jit(jax.vmap(chain))(jnp.stack([lying, lying[::-1]]), jnp.stack([turn, turn]))[0]
            for got in (chain(lying, turn), jax.jit(chain)(lying, turn), batched):
                got = np.asarray(got).swapaxes(0, 1)
                assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1
                assert np.abs(got - expected).max() < COLOUR, (case, turn)


def test_yiqs_hue_keeps_luma_and_gray_and_turns_as_hsvs_does():
    pastel = 0.4 + 0.2 * jnp.asarray(colour_cases()["noise"]).swapaxes(0, 1)  # so that nothing is clipped
    turned = colour.adjust_hue_yiq(pastel, 0.2)
    assert np.abs(np.asarray(colour.luma(turned) - colour.luma(pastel))).max() < COLOUR
    gray = jnp.asarray(colour_cases()["gray"], jnp.float32).swapaxes(0, 1)
    turned = np.asarray(jax.jit(colour.adjust_hue_yiq)(gray, 0.2))
    assert (turned[:, :1] == turned).all() and np.abs(turned - gray).max() < COLOUR

    red = jnp.array([0.6, 0.4, 0.4]).reshape(1, 3, 1)
    for adjust in (colour.adjust_hue, colour.adjust_hue_yiq):
        _, green, blue = np.asarray(adjust(red, 0.15)).ravel()
        assert green > blue + 0.05  # towards yellow
    # Another operation, not an approximation.
    photo = jnp.asarray(colour_cases()["photograph"]).swapaxes(0, 1)
    assert np.abs(colour.adjust_hue(photo, 0.4) - colour.adjust_hue_yiq(photo, 0.4)).max() > 0.1


def test_every_order_without_branches_is_the_sequence_in_float64():
    planes = colour_cases()["photograph"].astype(np.float32)
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    amounts = dict(brightness=1.3, contrast=0.7, saturation=1.4, hue=-0.33)

    def change(order):
        chosen = ViewParameters(
            box=jnp.zeros(4), flip=jnp.array(False), gray=jnp.array(False), order=order,
            **{name: jnp.float32(amount) for name, amount in amounts.items()},
        )  # fmt: skip
        changed = colour.apply(jnp.asarray(planes).swapaxes(0, 1), chosen, Views(), on_cpu=False)
        return colour.to_image(changed, transposed=False)

    got = np.asarray(jax.jit(jax.vmap(change))(orders))
    for i, order in enumerate(orders):
        expected = torch.from_numpy(planes).double()
        for which in order:
            name = list(amounts)[which]
            expected = getattr(torch_views, name)(expected, float(np.float32(amounts[name])))
        assert np.abs(got[i] - expected.permute(1, 2, 0).numpy()).max() < 5 * COLOUR, order  # four operations


def test_a_blend_with_factor_one_keeps_all_bits():
    planes = jnp.asarray(colour_cases()["noise"]).swapaxes(0, 1)
    for adjust in (colour.adjust_brightness, colour.adjust_contrast, colour.adjust_saturation):
        np.testing.assert_array_equal(jax.jit(adjust)(planes, jnp.float32(1)), planes)
