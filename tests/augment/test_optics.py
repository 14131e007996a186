"""Blur, rotation, window and distortion against SciPy and torch; views with every option on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import torch

import torch_views
from ipcl_jax.augment import optics, views
from ipcl_jax.config import Train, Views
from ipcl_jax.errors import ConfigError
from pictures import (
    all_kinds,
    drawn,
    largest_error,
    make_views,
    noise,
    on_canvas,
    photograph,
    render_views,
    without_normalising,
)
from thinning import first

# Weights that add up to 1 and values in [0, 1]: a few roundings of 6e-8, for each of two axes.
SUMS = 1e-6
# Places are float32 numbers of up to some hundred pixels, known to 2e-5, between pixels that differ
# by 1 at most. A wrong pixel or angle costs 1e-1.
PLACES = 1e-4
# A whole view: roundings of a crop and of four colour operations (1e-5), and such places.
VIEW = 1e-4

EVERYTHING = Views(
    size=64, per_image=3, blur=0.6, blur_sigma=(0.3, 2.5), rotation=35, window=0.3, distortion=0.25
)
FAST = Views(size=64, per_image=3, antialias=False, colour_order="fixed", hue_space="yiq")
BOTH = dataclasses.replace(
    EVERYTHING, antialias=False, colour_order="fixed", hue_space="yiq", distortion=-0.1
)


def planes_of(side: int) -> np.ndarray:
    """A photograph and noise, `[2, 3, S, S]` float32 in [0, 1]. (The library's lie `[S, 3, S]`.)"""
    images = np.stack([photograph("chelsea.png", side, side), noise(side, side)])
    return images.transpose(0, 3, 1, 2).astype(np.float32) / 255


def eager_jitted_and_batched(function, planes: np.ndarray, *numbers) -> list[np.ndarray]:
    """`[2, 3, S, S]` of three ways to call an operation on planes `[S, 3, S]`."""
    lying = jnp.asarray(planes).swapaxes(1, 2)
    numbers = [jnp.float32(number) for number in numbers]
    fused = jax.jit(function)
    one_by_one = [jnp.stack([f(image, *numbers) for image in lying]) for f in (function, fused)]
    batched = jax.jit(jax.vmap(function))(lying, *(jnp.stack([number] * 2) for number in numbers))
    return [np.asarray(result).swapaxes(1, 2) for result in (*one_by_one, batched)]


# --- blur --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", first(1, [64, 63]))
@pytest.mark.parametrize("sigma", first(2, [0.5, 2.0, 0.1, 1.0, 3.9]))
def test_blur_is_scipys_and_torchs(side, sigma):
    reach, planes = 15, planes_of(side)
    expected = scipy.ndimage.gaussian_filter(
        planes.astype(np.float64), sigma, mode="mirror", radius=reach, axes=(2, 3)
    )
    by_torch = np.stack([torch_views.blur(torch.from_numpy(x).double(), sigma, reach) for x in planes])
    assert np.abs(by_torch - expected).max() < 1e-12  # both in float64
    for got in eager_jitted_and_batched(lambda x, s: optics.blur(x, s, reach=reach), planes, sigma):
        assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1 + SUMS
        assert np.abs(got - expected).max() < SUMS


def test_four_sigma_are_enough_of_a_gaussian():
    planes = planes_of(96)
    expected = scipy.ndimage.gaussian_filter(
        planes.astype(np.float64), 2.0, mode="mirror", radius=40, axes=(2, 3)
    )
    got = eager_jitted_and_batched(lambda x, s: optics.blur(x, s, reach=8), planes, 2.0)[1]
    assert np.abs(got - expected).max() < 2e-4  # two axes, each without 6e-5 of its weight


def test_without_blur_a_view_keeps_its_bits():
    planes, options = planes_of(64), Views(size=64, blur=0.5)
    for got in eager_jitted_and_batched(lambda x, s: optics.apply(x, s, None, options), planes, 0.0):
        np.testing.assert_array_equal(got, planes)


# --- rotation and distortion -------------------------------------------------------------


@pytest.mark.parametrize("side", first(1, [64, 63, 97]))
@pytest.mark.parametrize(
    ("angle", "distortion"),
    first(3, [(-33, -0.1), (17.3, 0), (0, 0.3), (0, 0), (-120, 0), (0, -1 / 6), (180, 1.0)]),
)
def test_bending_is_scipys_and_torchs(side, angle, distortion):
    planes, outside = planes_of(side), 0.37
    # Written out once more: each point's radius and direction, in float64.
    line = (2 * np.arange(side) + 1) / side - 1
    down, across = np.meshgrid(line, line, indexing="ij")
    radius, direction = np.hypot(down, across), np.arctan2(down, across) + np.deg2rad(angle)
    radius = radius * (1 + distortion * radius**2)
    points = [((x + 1) * side - 1) / 2 for x in (radius * np.sin(direction), radius * np.cos(direction))]
    beyond = dict(mode="grid-constant", cval=outside)
    by_scipy = np.stack(
        [
            [scipy.ndimage.map_coordinates(plane, points, order=1, **beyond) for plane in image]
            for image in planes.astype(np.float64)
        ]
    )
    by_torch = np.stack(
        [torch_views.bend(torch.from_numpy(x).double(), angle, distortion, outside) for x in planes]
    )
    assert np.abs(by_torch - by_scipy).max() < 1e-9  # both in float64, at places of their own
    bend = lambda x, a: optics.warp(x, a, distortion=distortion, outside=outside)  # noqa: E731
    for got in eager_jitted_and_batched(bend, planes, angle):
        assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1 + SUMS
        assert np.abs(got - by_scipy).max() < PLACES


@pytest.mark.parametrize("side", first(1, [64, 63]))
def test_angles_are_counter_clockwise_and_zero_is_nothing(side):
    planes = planes_of(side)
    turned = lambda angle: eager_jitted_and_batched(  # noqa: E731
        lambda x, a: optics.warp(x, a, distortion=0.0, outside=0.5), planes, angle
    )[1]
    np.testing.assert_array_equal(turned(0), planes)
    for quarters in (1, 2, -1):
        assert np.abs(turned(90 * quarters) - np.rot90(planes, quarters, (2, 3))).max() < PLACES


@pytest.mark.slow
def test_a_portrait_turns_as_a_landscape_does():
    """The same square of pixels, in an image taller than wide and in one wider than tall."""
    tall, wide = photograph("chelsea.png", 200, 120), photograph("chelsea.png", 120, 200)
    canvas, sizes = on_canvas([tall, wide])
    keys = jnp.tile(jax.random.split(jax.random.key(1), 3), 2)
    parameters = drawn(keys, np.full((6, 2), 120, np.int32), EVERYTHING)
    rendered = np.asarray(render_views(canvas, np.repeat(sizes, 3, axis=0), parameters, EVERYTHING))
    assert np.abs(rendered[:3] - rendered[3:]).max() < 5 * PLACES  # in units of a std of about 0.22


# --- window ------------------------------------------------------------------------------


@pytest.mark.parametrize("side", first(1, [64, 63, 97]))
@pytest.mark.parametrize(
    ("edge", "distortion"), first(2, [(0.4, 0), (0.4, -0.15), (0.01, 0), (1.0, 0), (0.4, 0.3)])
)
def test_the_window_is_the_formula_in_float64(side, edge, distortion):
    planes = planes_of(side)
    expected = np.stack(
        [torch_views.fade(torch.from_numpy(x).double(), edge, distortion, 0.45) for x in planes]
    )
    fade = lambda x: optics.apply_window(x, edge=edge, distortion=distortion, outside=0.45)  # noqa: E731
    for got in eager_jitted_and_batched(fade, planes):
        assert got.dtype == np.float32 and got.min() >= 0 and got.max() <= 1 + SUMS
        assert np.abs(got - expected).max() < SUMS


def test_within_the_window_nothing_changes_and_beyond_is_gray():
    side, edge = 64, 0.25
    white = jnp.ones((side, 3, side))
    share = np.asarray(optics.apply_window(white, edge=edge, distortion=0.0, outside=0.0))[:, 0]
    line = (np.arange(side) - 31.5) / 32
    radius = np.hypot(line[:, None], line)
    assert (share[radius <= 1 - edge] == 1).all() and (share[radius >= 1] == 0).all()
    order = np.argsort(radius, axis=None)
    assert (np.diff(share.ravel()[order]) <= SUMS).all()  # never brighter further out
    assert abs(share[radius >= 1 - edge / 2].max() - 0.5) < 0.05  # half way through the edge


def test_one_resampling_is_window_and_distortion_one_after_the_other():
    planes = planes_of(96)[:1]
    planes = scipy.ndimage.gaussian_filter(planes, 3.0, axes=(2, 3))  # so that resampling twice costs little
    options = Views(size=96, rotation=30, window=0.5, distortion=0.2)
    got = np.asarray(optics.apply(jnp.asarray(planes[0]).swapaxes(0, 1), None, jnp.float32(21), options))
    gray = sum(w * m for w, m in zip((0.299, 0.587, 0.114), options.mean, strict=True))
    steps = torch.from_numpy(planes[0]).double()
    steps = torch_views.bend(steps, 21, 0.0, gray)
    steps = torch_views.fade(steps, 0.5, 0.0, gray)
    steps = torch_views.bend(steps, 0.0, 0.2, gray)
    # Interpolating the product of picture and window, or multiplying what is interpolated: that differs
    # by their curvature within a pixel.
    assert np.abs(got.swapaxes(0, 1) - steps.numpy()).max() < 5e-3


# --- whole views -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "options"),
    first(
        1,
        [("gpu", BOTH), ("cpu", EVERYTHING), ("gpu", EVERYTHING), ("cpu", BOTH), ("cpu", FAST), ("gpu", FAST)],
    ),
)
def test_views_with_options_are_the_formulas_in_float64(monkeypatch, backend, options):
    images = all_kinds()
    canvas, sizes = on_canvas(images)
    key, n = jax.random.key(5), len(images) * options.per_image
    parameters = drawn(jax.random.split(key, n), np.repeat(sizes, options.per_image, axis=0), options)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)  # one view at a time, or all at once
    rendered = jax.jit(lambda *x: views.make_views(*x, options))(key, canvas, sizes)
    assert largest_error(images, parameters, rendered, options) < VIEW


@pytest.mark.slow
@pytest.mark.parametrize("side", [65, 63, 96])
def test_views_have_any_size(side):
    options = dataclasses.replace(EVERYTHING, size=side)
    images = [photograph("coffee.png", 256, 300), photograph("chelsea.png", 90, 70), noise(30, 40)]
    canvas, sizes = on_canvas(images)
    sizes = np.repeat(sizes, 3, axis=0)
    parameters = drawn(jax.random.split(jax.random.key(side), 9), sizes, EVERYTHING)  # size has no part in it
    rendered = render_views(canvas, sizes, parameters, options)
    assert rendered.shape == (9, side, side, 3) and rendered.dtype == jnp.float32
    pixels = without_normalising(rendered, options)
    assert pixels.min() > -SUMS and pixels.max() < 1 + SUMS
    assert largest_error(images, parameters, rendered, options) < VIEW


@pytest.mark.slow
@pytest.mark.parametrize("options", [BOTH, EVERYTHING])
def test_gray_views_have_three_equal_channels(options):
    # One mean for all channels: ImageNet's, taken off a gray picture, would leave a tint.
    options = dataclasses.replace(options, grayscale=1.0, mean=(0.5,) * 3, std=(0.2,) * 3)
    canvas, sizes = on_canvas(all_kinds())
    rendered = np.asarray(make_views(jax.random.key(0), canvas, sizes, options))
    assert rendered.std() > 0.5
    np.testing.assert_array_equal(rendered, rendered[..., :1].repeat(3, axis=-1))
    whole = np.asarray(views.center_views(canvas, sizes, options))  # such a network is tested on gray too
    assert whole.std() > 0.5
    np.testing.assert_array_equal(whole, whole[..., :1].repeat(3, axis=-1))


@pytest.mark.slow
def test_options_change_no_other_choice():
    keys, sizes = jax.random.split(jax.random.key(3), 50), np.full((50, 2), (200, 300), np.int32)
    plain, all_on = drawn(keys, sizes, Views()), drawn(keys, sizes, EVERYTHING)
    assert plain.sigma is None and plain.angle is None
    for name in views.ViewParameters._fields[:-2]:
        np.testing.assert_array_equal(getattr(plain, name), getattr(all_on, name), err_msg=name)
    fixed = drawn(keys, sizes, FAST)
    assert (np.asarray(fixed.order) == np.arange(4)).all()
    np.testing.assert_array_equal(plain.box, fixed.box)
    blurred = np.asarray(all_on.sigma) > 0
    assert 0 < blurred.sum() < 50
    # Switched on alone, an option gives what it gives among the others.
    np.testing.assert_array_equal(drawn(keys, sizes, Views(rotation=35)).angle, all_on.angle)


def test_no_key_is_used_twice():
    key = jax.random.key(9)
    all_keys = [*jax.random.split(key, 8), *(jax.random.fold_in(key, number) for number in (8, 9, 10))]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in all_keys}) == 11


def test_whole_images_have_no_optics():
    canvas, sizes = on_canvas([photograph("coffee.png", 256, 300)])
    whole = jax.jit(views.center_views, static_argnums=2)
    np.testing.assert_array_equal(whole(canvas, sizes, BOTH), whole(canvas, sizes, Views(size=64)))


# --- what is refused ---------------------------------------------------------------------

REFUSED = {
    "--views.blur is 1.5; a probability": dict(blur=1.5),
    "--views.blur-sigma is 0 2; in pixels": dict(blur_sigma=(0.0, 2.0)),
    "0 < low <= high <= 4, which is --views.size / 16": dict(size=64, blur_sigma=(0.1, 4.1)),
    "--views.rotation is -1": dict(rotation=-1.0),
    "lies in .0, 180. degrees": dict(rotation=200.0),
    "--views.window is 1.1": dict(window=1.1),
    "--views.distortion is -0.2; it lies in .-1/6, 1.": dict(distortion=-0.2),
    "--views.distortion is nan": dict(distortion=float("nan")),
    "--views.hue-space is 'yuv'. Known: hsv, yiq": dict(hue_space="yuv"),
    "--views.colour-order is 'fix'. Did you mean 'fixed'": dict(colour_order="fix"),
    "at least 63": dict(size=62),
}


@pytest.mark.parametrize("message", REFUSED)
def test_options_out_of_range_are_refused(message):
    with pytest.raises(ConfigError, match=message):
        Train(name="x", views=Views(**REFUSED[message]))


LARGEST = Views(window=1.0, distortion=-1 / 6, rotation=180, blur=1.0, blur_sigma=(0.1, 14.0))


@pytest.mark.parametrize("options", [EVERYTHING, FAST, BOTH, LARGEST, Views(size=63)])
def test_options_within_their_range_are_taken(options):
    Train(name="x", views=options)
