"""Augmented views: what is drawn against torchvision's rules, what is rendered against float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ipcl_jax.augment import colour, resample, views
from ipcl_jax.config import Views
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

# A pixel in [0, 1] carries float32's 6e-8 through some 250 additions and a chain of four colour
# operations, each of which may multiply it: 6e-7 was seen. A wrong weight or sector costs 1e-2.
PIXEL = 1e-5
# One colour operation in float32: a few roundings of 6e-8; contrast adds those of a mean, hue those
# of two divisions.
COLOUR = 1e-5
# Below this a test with fixed seeds counts as failed. Some hundred such tests run here: a level of
# 0.001 is rarely met by chance (and, the seeds being fixed, not now and then), while a wrong
# distribution of 20,000 draws gives values many orders of magnitude smaller.
UNLIKELY = 1e-3
DRAWS = 20_000


# --- rendering ---------------------------------------------------------------------------


def border_boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """The whole image, boxes at each border and in each corner, one pixel, and thin stripes."""
    h, w = max(1, height * 2 // 3), max(1, width * 2 // 5)
    bottom, right = height - h, width - w
    return [
        (0, 0, height, width), (0, right // 2, h, w), (bottom, right // 2, h, w),
        (bottom // 2, 0, h, w), (bottom // 2, right, h, w), (0, 0, h, w), (0, right, h, w),
        (bottom, 0, h, w), (bottom, right, h, w), (height - 1, width - 1, 1, 1),
        (0, width // 2, height, 1), (height // 2, 0, 1, width),
    ]  # fmt: skip


@pytest.mark.parametrize("side", first(1, [64, 224]))
def test_views_are_the_formulas_in_float64(side):
    images, options = all_kinds(), Views(size=side, per_image=2, crop_area=(0.02, 1.0))
    canvas, sizes = on_canvas(images)
    key = jax.random.key(side)
    rendered = make_views(key, canvas, sizes, options)
    assert rendered.shape == (len(images) * 2, side, side, 3) and rendered.dtype == jnp.float32
    keys = jax.random.split(key, len(images) * 2)
    parameters = drawn(keys, np.repeat(sizes, 2, axis=0), options)
    assert largest_error(images, parameters, rendered, options) < PIXEL


@pytest.mark.slow
def test_crops_at_every_border_are_the_formulas_in_float64():
    images, options = all_kinds(), Views(size=97, per_image=12)
    canvas, sizes = on_canvas(images)
    keys = jax.random.split(jax.random.key(1), len(images) * 12)
    parameters = drawn(keys, np.repeat(sizes, 12, axis=0), options)
    boxes = np.array([box for size in sizes for box in border_boxes(*size)], np.int32)
    parameters = parameters._replace(box=boxes)
    rendered = render_views(canvas, np.repeat(sizes, 12, axis=0), parameters, options)
    assert largest_error(images, parameters, rendered, options) < PIXEL


@pytest.mark.slow
def test_large_canvases_shrink_as_the_formulas_do():
    images, options = [noise(700, 900), noise(900, 701)], Views(size=64, per_image=2)
    canvas, sizes = on_canvas(images, 768, 1024)
    parameters = drawn(jax.random.split(jax.random.key(3), 4), np.repeat(sizes, 2, axis=0), options)
    rendered = render_views(canvas, np.repeat(sizes, 2, axis=0), parameters, options)
    assert largest_error(images, parameters, rendered, options) < PIXEL


def triangle_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Weights `[n_out, n_in]` of antialiased bilinear resizing, written out in float64."""
    scale = n_in / n_out
    distance = np.arange(n_in) + 0.5 - (np.arange(n_out)[:, None] + 0.5) * scale
    matrix = np.maximum(0, 1 - np.abs(distance) / max(scale, 1))
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize(("height", "width", "side"), [(37, 150, 64), (256, 90, 97), (5, 1, 64)])
def test_torchs_antialiased_resizing_is_the_triangle_filter(height, width, side):
    image = noise(height, width) / 255
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (side, side), mode="bilinear", align_corners=False, antialias=True)[0]
    down, across = triangle_matrix(height, side), triangle_matrix(width, side)
    expected = np.einsum("ih,hwc,jw->cij", down, image, across)
    # Both are float64, but torch may round its weights on the way: far below what PIXEL resolves.
    assert np.abs(resized.numpy() - expected).max() < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("form", ["products", "reading"])
def test_an_output_sees_all_its_source_pixels(form):
    """Random boxes, canvases and sizes: both forms are the product with the full matrix."""
    rng = np.random.default_rng(5)
    for _ in range(12):
        extent = int(rng.choice([1, 2, 7, 31, 64, 97, 255, 256, 512, 777]))
        side = int(rng.choice([1, 5, 31, 32, 33, 64, 97, 224, 300]))
        axis = int(rng.choice([0, 1]))

        def resample_line(planes, start, length, flip):
            """The axis in question; the other is as long as the output, and stays as it is."""
            pairs = [jnp.array(pair[:: 1 - 2 * axis]) for pair in ((start, 0), (length, side), (flip, False))]  # noqa: B023
            lines = resample.locate(*pairs[:2], jnp.full(2, side), jnp.zeros(2, int), pairs[2], side=side)  # noqa: B023
            if form == "reading":
                return resample.read(planes, lines)
            return resample.multiply(planes, 2 * axis, resample.Line(*(field[axis] for field in lines)))  # noqa: B023

        line = rng.random((1, 3, extent), np.float32)
        planes = np.broadcast_to(line, (side, 3, extent)).swapaxes(2 * axis, 2)
        lengths = np.append(rng.integers(1, extent + 1, 20), [extent, 1]).astype(np.int32)
        starts = rng.integers(0, extent - lengths + 1).astype(np.int32)
        starts[:4] = (extent - lengths)[:4]
        flips = rng.random(len(lengths)) < 0.5
        resampled = jax.jit(jax.vmap(resample_line, (None, 0, 0, 0)))(planes, starts, lengths, flips)
        got = np.asarray(resampled).swapaxes(2 * axis + 1, 3)
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            expected = line[0, :, start : start + length] @ triangle_matrix(length, side).T
            expected = expected[:, ::-1] if flips[i] else expected
            # Two float32 sums of numbers in [0, 1] with weights that add up to 1, and weights from
            # a coordinate that float32 knows to 1e-5 at worst.
            assert np.abs(got[i] - expected).max() < 2e-5, (extent, side, start, length)


def torchvision_boxes(rng, height, width, n, area, aspect) -> np.ndarray:
    """n boxes `[n, 4]` by RandomResizedCrop.get_params: ten tries, then the central crop."""
    boxes, open_ = np.zeros((n, 4), int), np.ones(n, bool)
    for _ in range(10):
        target = height * width * rng.uniform(*area, n)
        ratio = np.exp(rng.uniform(*np.log(aspect), n))
        w, h = np.round(np.sqrt(target * ratio)).astype(int), np.round(np.sqrt(target / ratio)).astype(int)
        fits = open_ & (0 < w) & (w <= width) & (0 < h) & (h <= height)
        top = rng.integers(0, np.where(fits, height - h, 0) + 1)
        left = rng.integers(0, np.where(fits, width - w, 0) + 1)
        boxes[fits] = np.stack([top, left, h, w], 1)[fits]
        open_ &= ~fits
    w, h = width, height
    if width / height < min(aspect):
        h = round(width / min(aspect))
    elif width / height > max(aspect):
        w = round(height * max(aspect))
    boxes[open_] = (height - h) // 2, (width - w) // 2, h, w
    return boxes


@pytest.mark.parametrize(
    ("height", "width"), [(256, 341), (500, 256), (256, 256), (256, 512), (20, 300), (400, 3), (2, 3), (1, 1)]
)
@pytest.mark.parametrize("area", [(0.2, 1.0), (0.5, 1.0)])
def test_boxes_are_distributed_as_torchvisions(height, width, area):
    options = Views(crop_area=area)
    keys = jax.random.split(jax.random.key(7), DRAWS)
    ours = np.asarray(drawn(keys, np.full((DRAWS, 2), (height, width), np.int32), options).box)
    theirs = torchvision_boxes(np.random.default_rng(8), height, width, DRAWS, area, options.crop_aspect)
    for boxes in (ours, theirs):
        top, left, h, w = boxes.T
        assert (top >= 0).all() and (left >= 0).all() and (h > 0).all() and (w > 0).all()
        assert (top + h <= height).all() and (left + w <= width).all()

    def marginals(boxes):
        top, left, h, w = boxes.T
        return {
            "top": top, "left": left, "height": h, "width": w, "area": h * w, "aspect": w / h,
            "right": left + w, "bottom": top + h,
        }  # fmt: skip

    for name, values in marginals(ours).items():
        p = scipy.stats.ks_2samp(values, marginals(theirs)[name]).pvalue
        assert p > UNLIKELY, (name, p)


def test_other_choices_have_their_distributions():
    options = Views(
        flip=0.3, brightness=0.3, contrast=0.5, saturation=0.6, hue=0.2,
        blur=0.35, blur_sigma=(0.5, 1.5), rotation=20,
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(11), DRAWS)
    parameters = drawn(keys, np.full((DRAWS, 2), (256, 341), np.int32), options)
    for name, rate in (("flip", options.flip), ("gray", options.grayscale)):
        count = int(np.asarray(getattr(parameters, name)).sum())
        assert scipy.stats.binomtest(count, DRAWS, rate).pvalue > UNLIKELY, name
    for name, centre in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        spread = getattr(options, name)
        uniform = scipy.stats.uniform(centre - spread, 2 * spread)
        assert scipy.stats.kstest(np.asarray(getattr(parameters, name)), uniform.cdf).pvalue > UNLIKELY, name
    sigma, angle = np.asarray(parameters.sigma), np.asarray(parameters.angle)
    assert scipy.stats.binomtest(int((sigma > 0).sum()), DRAWS, options.blur).pvalue > UNLIKELY
    assert scipy.stats.kstest(sigma[sigma > 0], scipy.stats.uniform(0.5, 1.0).cdf).pvalue > UNLIKELY
    assert scipy.stats.kstest(angle, scipy.stats.uniform(-20, 40).cdf).pvalue > UNLIKELY
    orders = np.asarray(parameters.order)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and scipy.stats.chisquare(counts).pvalue > UNLIKELY


def test_choices_are_independent_of_each_other():
    keys = jax.random.split(jax.random.key(12), DRAWS)
    options = Views(blur=0.5, rotation=20)
    parameters = drawn(keys, np.full((DRAWS, 2), (256, 256), np.int32), options)
    columns = np.column_stack([np.asarray(x).reshape(DRAWS, -1) for x in parameters])
    correlation = np.corrcoef(columns.T)
    # Numbers of one box or order belong together.
    groups = np.array([0] * 4 + [1, 2, 3, 4, 5, 6] + [7] * 4 + [8, 9])
    between = correlation[groups[:, None] != groups]
    assert np.abs(between).max() < 4.5 / np.sqrt(DRAWS)  # of 108 pairs of independent columns, 1 in 1,400


@pytest.mark.slow
def test_each_view_has_a_key_of_its_own():
    options = Views(size=64, per_image=4)
    images = [photograph("coffee.png", 256, 256), photograph("chelsea.png", 256, 300), noise(300, 256)]
    canvas, sizes = on_canvas(images)
    key = jax.random.key(2)
    rendered = np.asarray(make_views(key, canvas, sizes, options))
    keys = jax.random.split(key, 12)
    parameters = drawn(keys, np.repeat(sizes, 4, axis=0), options)
    assert len({tuple(box) for box in np.asarray(parameters.box).tolist()}) == 12
    for b, v in ((0, 0), (0, 3), (1, 2), (2, 1)):
        own = drawn(keys[b * 4 + v][None], sizes[b : b + 1], options)
        alone = render_views(canvas[b : b + 1], sizes[b : b + 1], own, options)
        # The same float32 operations, perhaps fused differently; in units of a std of about 0.22.
        np.testing.assert_allclose(rendered[b * 4 + v], alone[0], atol=5 * COLOUR)


def test_views_depend_on_the_key_and_on_their_own_image_alone():
    options = Views(size=64, per_image=4)
    images = [photograph("coffee.png", 256, 256), photograph("chelsea.png", 256, 300), noise(300, 256)]
    canvas, sizes = on_canvas(images)
    first = np.asarray(make_views(jax.random.key(2), canvas, sizes, options))
    np.testing.assert_array_equal(first, make_views(jax.random.key(2), canvas, sizes, options))
    assert np.abs(first - np.asarray(make_views(jax.random.key(3), canvas, sizes, options))).max() > 0.1

    others, other_sizes = on_canvas([images[0], noise(100, 200), photograph("rocket.jpg", 256, 500)])
    second = np.asarray(make_views(jax.random.key(2), others, other_sizes, options))
    np.testing.assert_array_equal(first[:4], second[:4])


# --- whole images, normalisation, options ------------------------------------------------


@pytest.mark.parametrize("side", first(1, [97, 224]))
def test_whole_images_are_torchvisions_resize_and_centre_crop(side):
    images = [
        photograph("astronaut.png", 256, 341), photograph("chelsea.png", 400, 256), noise(256, 256),
        noise(256, 511), noise(30, 41), noise(77, 31), noise(1, 3),
    ]  # fmt: skip
    canvas, sizes = on_canvas(images)
    options = Views(size=side)
    whole = jax.jit(views.center_views, static_argnums=2)(canvas, sizes, options)
    for image, got in zip(images, without_normalising(whole, options), strict=True):
        height, width = image.shape[:2]
        short = min(height, width)
        resized = int(side * height / short), int(side * width / short)
        planes = torch.from_numpy(image.copy()).permute(2, 0, 1).double()[None] / 255
        planes = F.interpolate(planes, resized, mode="bilinear", align_corners=False, antialias=True)[0]
        top, left = round((resized[0] - side) / 2), round((resized[1] - side) / 2)
        expected = planes[:, top : top + side, left : left + side].permute(1, 2, 0).numpy()
        assert np.abs(got - expected).max() < PIXEL, image.shape


def test_normalize_subtracts_the_mean_and_divides_by_the_std():
    options = Views(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    for shape in ((3,), (4, 5, 3), (2, 4, 5, 3)):
        images = np.random.default_rng(0).random(shape, np.float32)
        expected = (images - np.array(options.mean)) / np.array(options.std)
        got = views.normalize(jnp.asarray(images), options)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, atol=1e-6)  # two roundings of numbers below 4


PLAIN = Views(
    size=64, per_image=2, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), grayscale=0.0, flip=0.0,
    brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0,
)  # fmt: skip


def test_without_augmentation_a_view_is_the_whole_image():
    images = [photograph("coffee.png", 256, 256), noise(90, 90)]
    canvas, sizes = on_canvas(images)
    plain = without_normalising(make_views(jax.random.key(0), canvas, sizes, PLAIN), PLAIN)
    whole = without_normalising(views.center_views(canvas, sizes, PLAIN), PLAIN)
    assert np.abs(plain - np.repeat(whole, 2, axis=0)).max() < COLOUR  # hue goes to HSV and back


@pytest.mark.slow
def test_single_options_do_what_they_say():
    images = [photograph("coffee.png", 256, 256), photograph("chelsea.png", 256, 256)]
    canvas, sizes = on_canvas(images)
    with_option = lambda **option: without_normalising(  # noqa: E731
        make_views(jax.random.key(0), canvas, sizes, dataclasses.replace(PLAIN, **option)), PLAIN
    )
    plain = with_option()
    mirrored_gray = with_option(flip=1.0, grayscale=1.0)
    # The same sums in another order.
    assert np.abs(mirrored_gray[:, :, ::-1] - (plain @ colour.LUMA)[..., None]).max() < COLOUR
    bright = with_option(brightness=0.4)
    ratio = bright[0].sum() / plain[0].sum()
    assert 0.6 <= ratio <= 1.4 and abs(ratio - 1) > 1e-3
    assert np.abs(bright[0] - np.clip(ratio * plain[0], 0, 1)).max() < 0.01 + 0.4 * (bright[0].max() >= 1)


# --- where it runs -----------------------------------------------------------------------


@pytest.mark.slow
def test_all_views_at_once_are_the_views_one_at_a_time(monkeypatch):
    images, options = all_kinds(), Views(size=64, per_image=3)
    canvas, sizes = on_canvas(images)

    def both(key, canvas, sizes):
        return views.make_views(key, canvas, sizes, options), views.center_views(canvas, sizes, options)

    one_at_a_time = jax.jit(both)(jax.random.key(4), canvas, sizes)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # what chooses between the two
    at_once = jax.jit(lambda *x: both(*x))(jax.random.key(4), canvas, sizes)
    for got, expected in zip(at_once, one_at_a_time, strict=True):
        # Sums in another order, in units of a std of 0.22.
        assert np.abs(np.asarray(got) - expected).max() < 5 * COLOUR


@pytest.mark.parametrize("backend", first(1, ["gpu", "cpu"]))
def test_the_number_of_devices_does_not_change_views(monkeypatch, backend):
    options = Views(size=64, per_image=3)
    images = [photograph("coffee.png", 256, 250), noise(300, 256)] * 4
    canvas, sizes = on_canvas(images)
    key = jax.random.key(6)
    alone = make_views(key, canvas, sizes, options)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    by_image = NamedSharding(mesh, PartitionSpec("data"))
    shared = jax.jit(
        lambda key, canvas, sizes: views.make_views(key, canvas, sizes, options),
        in_shardings=(NamedSharding(mesh, PartitionSpec()), by_image, by_image), out_shardings=by_image,
    ).lower(key, canvas, sizes).compile()  # fmt: skip
    got = np.asarray(shared(key, *jax.device_put((canvas, sizes), by_image)))
    assert np.abs(got - alone).max() < 5 * COLOUR  # perhaps fused differently, in units of a std of 0.22
    if backend == "gpu":  # canvases and views stay where they are
        text = shared.as_text()
        for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
            assert exchange not in text
