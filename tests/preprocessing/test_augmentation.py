"""ImageAugmentation: where pixels go, that a seed decides, and what is refused."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from PIL import Image, ImageOps
from scipy import ndimage
from sklearn.base import BaseEstimator, clone
from torchvision.transforms import v2

from sktransfer._images import make_preprocessing, resolve_augmentation
from sktransfer._images._transforms import (
    OPERATIONS,
    affine_matrix,
    crop_matrix,
    resample,
    trivial_augment,
)
from sktransfer._images._values import EXTENT, Extent
from sktransfer.preprocessing import ImageAugmentation

H, W = 24, 36


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def image(noise):
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def smooth():
    """A deep image, not square, without symmetry."""
    y, x = np.mgrid[:H, :W] / 40
    return np.stack([x**2, y, (x + y) / 2], axis=-1).astype(np.float32)


def draws(augmentation, image, n=40):
    return [np.asarray(augmentation(image, seed)) for seed in range(n)]


# Where pixels go


def test_a_list_shifts_by_its_elements_to_the_right_and_down(noise, image):
    out = np.asarray(ImageAugmentation(width_shift_range=[5])(image, 0))
    np.testing.assert_array_equal(out[:, 5:], noise[:, :-5])
    np.testing.assert_array_equal(out[:, :5], np.repeat(noise[:, :1], 5, axis=1))  # nearest
    out = np.asarray(ImageAugmentation(height_shift_range=[3])(image, 0))
    np.testing.assert_array_equal(out[3:], noise[:-3])


def test_height_shift_moves_rows_and_width_shift_columns():
    point = np.zeros((21, 31), np.uint8)
    point[10, 15] = 255
    point = Image.fromarray(point)
    for seen, ranges in (
        ({10}, {"width_shift_range": 5}),
        ({6, 7, 8, 9, 10, 11, 12, 13, 14}, {"height_shift_range": 5}),
    ):
        rows = {int(np.argwhere(out)[0, 0]) for out in draws(ImageAugmentation(**ranges), point)}
        assert rows == seen  # an integer n: all whole numbers between -n and n


def test_float_shifts_are_fractions_below_one_and_pixels_above():
    ramp = np.tile(np.arange(200, dtype=np.float32) / 200, (10, 1))

    def moved(**ranges):
        middle = [out[5, 100] * 200 - 100 for out in draws(ImageAugmentation(**ranges), ramp, 200)]
        return min(middle), max(middle)

    assert np.allclose(moved(width_shift_range=0.1), (-20, 20), atol=0.5)
    assert np.allclose(moved(width_shift_range=3.0), (-3, 3), atol=0.1)
    assert moved(height_shift_range=0.4) == pytest.approx((0, 0), abs=1e-3)


@pytest.mark.parametrize("shape", [(20, 20, 3), (20, 30, 3)])
def test_rotation_is_about_the_center(shape):
    array = np.random.default_rng(1).random(shape, dtype=np.float32)
    half = resample(array, affine_matrix(rotation=180), "nearest", 0.0)
    np.testing.assert_allclose(half, array[::-1, ::-1], atol=2e-5)
    quarter = resample(array, affine_matrix(rotation=90), "constant", 0.0)
    if shape[0] == shape[1]:
        np.testing.assert_allclose(quarter, np.rot90(array), atol=2e-5)
    else:
        # The middle square of the image, and black alongside it.
        np.testing.assert_allclose(quarter[:, 5:25], np.rot90(array[:, 5:25]), atol=2e-5)
        assert quarter[:, :4].max() == 0


@pytest.mark.parametrize(
    ("mode", "scipys"),
    [("nearest", "nearest"), ("reflect", "reflect"), ("constant", "grid-constant"),
     ("wrap", "grid-wrap")],
)  # fmt: skip
def test_resampling_equals_scipys(smooth, mode, scipys):
    matrix = affine_matrix(rotation=33, shift=(4.3, -7.1), shear=12, zoom=(1.4, 0.8))
    matrix = matrix @ crop_matrix((0.9, 0.7), (0.2, 1.0), (W, H))
    center = np.array([[1, 0, (W - 1) / 2], [0, 1, (H - 1) / 2], [0, 0, 1]])
    pixels = (center @ matrix @ np.linalg.inv(center))[[1, 0, 2]][:, [1, 0, 2]]  # (row, column)
    ours = resample(smooth, matrix, mode, 0.3)
    for channel in range(3):
        theirs = ndimage.affine_transform(
            smooth[..., channel].astype(float), pixels, order=1, mode=scipys, cval=0.3
        )
        np.testing.assert_allclose(ours[..., channel], theirs, atol=5e-5)


def test_rotation_and_zoom_of_both_axes_equal_torchvisions_affine(smooth):
    ours = resample(smooth, affine_matrix(rotation=25, zoom=(1.25, 1.25)), "constant", 0.0)
    theirs = tvf.affine(
        torch.from_numpy(smooth.transpose(2, 0, 1)),
        angle=-25,  # clockwise
        translate=[0, 0],
        scale=1 / 1.25,
        shear=[0.0, 0.0],
        interpolation=v2.InterpolationMode.BILINEAR,
    )
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, atol=1e-5)


def test_the_matrix_is_that_of_keras():
    theta, s = np.deg2rad(30), np.deg2rad(10)
    rotation = [[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]]
    shear = [[1, -np.sin(s)], [0, np.cos(s)]]
    expected = np.array(rotation) @ shear @ np.diag([1.2, 0.9])
    ours = affine_matrix(rotation=30, shear=10, zoom=(1.2, 0.9))
    np.testing.assert_allclose(ours[:2, :2], expected)
    assert not ours[:2, 2].any()


def test_zoom_below_one_magnifies_and_the_axes_are_independent():
    blob = np.zeros((41, 41), np.float32)
    blob[16:25, 16:25] = 1
    large = ImageAugmentation(zoom_range=(0.5, 0.5))(blob, 0)
    assert large.sum() == pytest.approx(4 * 81, rel=0.02)
    sides = np.array([(out.max(0).sum(), out.max(1).sum()) for out in
                      draws(ImageAugmentation(zoom_range=0.4), blob)])  # fmt: skip
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.5


def test_crops_keep_their_share_of_the_area():
    y, x = np.mgrid[:60, :80]
    gradient = np.stack([x / 80, y / 60, x * 0], axis=-1).astype(np.float32)
    augmentation = ImageAugmentation(crop_scale=(0.25, 0.5), crop_ratio=(0.5, 2))
    areas, ratios = [], []
    for out in draws(augmentation, gradient, 100):
        width, height = np.ptp(out[..., 0]), np.ptp(out[..., 1])
        areas.append(width * height)
        ratios.append(width / height)
    assert 0.22 < min(areas) < 0.3
    assert 0.45 < max(areas) < 0.52
    assert 0.45 < min(ratios) < 0.65
    assert 1.6 < max(ratios) < 2.2


def test_flips_are_exact_and_half_of_the_time(noise, image):
    for name, mirrored in (("horizontal_flip", noise[:, ::-1]), ("vertical_flip", noise[::-1])):
        outs = draws(ImageAugmentation(**{name: True}), image, 200)
        flipped = [np.array_equal(out, mirrored) for out in outs]
        assert all(
            yes or np.array_equal(out, noise) for yes, out in zip(flipped, outs, strict=True)
        )
        assert 70 < sum(flipped) < 130


def test_brightness_equals_torchvisions(image, noise):
    out = ImageAugmentation(brightness_range=(1.3, 1.3))(image, 0)
    assert out == tvf.adjust_brightness(image, 1.3)
    deep = (noise / 255).astype(np.float32)
    out = ImageAugmentation(brightness_range=(1.3, 1.3))(deep, 0)
    np.testing.assert_allclose(out, np.clip(deep * 1.3, 0, 1), rtol=1e-6)


def test_channel_shift_is_one_level_for_all_channels(image, noise):
    for out in draws(ImageAugmentation(channel_shift_range=40), image, 10):
        inside = (out > 0) & (out < 255)
        assert len(np.unique(out[inside].astype(int) - noise[inside])) == 1


def test_constant_fill_is_cval(image):
    out = ImageAugmentation(width_shift_range=[12], fill_mode="constant", cval=77)(image, 0)
    assert (np.asarray(out)[:, :11] == 77).all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_trivial_augment_equals_torchvisions(image, name):
    theirs = v2.TrivialAugmentWide()
    strengths, signed = theirs._AUGMENTATION_SPACE[name]
    strengths = strengths(31, H, W)
    which = (list(OPERATIONS).index(name) + 0.5) / len(OPERATIONS)
    for i in range(31):
        for sign in (0.1, 0.9) if signed else (0.9,):
            strength = 0.0 if strengths is None else float(strengths[i])
            expected = theirs._apply_image_or_video_transform(
                image, name, -strength if sign < 0.5 else strength, theirs.interpolation, {}
            )
            assert trivial_augment(image, [which, (i + 0.5) / 31, sign]) == expected
    assert set(theirs._AUGMENTATION_SPACE) == set(OPERATIONS)


# A seed decides


EVERYTHING = ImageAugmentation(
    rotation_range=30,
    width_shift_range=0.1,
    height_shift_range=4,
    shear_range=10,
    zoom_range=(0.8, 1.1),
    brightness_range=(0.7, 1.3),
    channel_shift_range=20,
    horizontal_flip=True,
    vertical_flip=True,
    fill_mode="reflect",
    crop_scale=(0.5, 1),
    trivial_augment=True,
)


def forms(image, smooth):
    return [image, image.convert("L"), smooth, smooth[..., 0].copy()]


def noisy_callable(image):
    factor = random.random() * float(torch.rand(())) * np.random.rand()  # noqa: NPY002
    return Image.fromarray((np.asarray(image) * factor).astype(np.uint8))


@pytest.mark.parametrize(
    "augmentation",
    [EVERYTHING, v2.Compose([v2.RandomHorizontalFlip(), v2.RandomRotation(20)]), noisy_callable],
    ids=["ours", "torchvision", "callable"],
)
def test_equal_seeds_give_equal_pixels_in_threads_and_leave_the_globals_alone(augmentation, image):
    augmentation = resolve_augmentation(augmentation)
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    outs = draws(augmentation, image, 30)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda s: np.asarray(augmentation(image, s)), range(30)))
    for one, other in zip(outs, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({out.tobytes() for out in outs}) > 20
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        np.testing.assert_array_equal(np.asarray(augmentation(image, 0)), outs[0])


def test_kind_and_size_of_an_image_stay(image, smooth):
    for given in forms(image, smooth):
        kept = np.array(given)
        for seed in range(30):
            out = EVERYTHING(given, seed)
            if isinstance(given, Image.Image):
                assert (out.mode, out.size) == (given.mode, given.size)
            else:
                assert (out.shape, out.dtype) == (given.shape, np.float32)
                assert 0 <= out.min() <= out.max() <= 1
        np.testing.assert_array_equal(np.array(given), kept)


def test_switching_one_parameter_on_leaves_the_other_draws(image):
    turned = ImageAugmentation(rotation_range=20)
    both = ImageAugmentation(rotation_range=20, vertical_flip=True)
    for seed in range(8):
        expected = turned(image, seed)
        assert both(image, seed) in (expected, ImageOps.flip(expected))


def test_nothing_is_done_by_default(image):
    assert ImageAugmentation()(image, 3) is image
    assert ImageAugmentation().is_identity
    assert resolve_augmentation(None) is None
    assert not EVERYTHING.is_identity


def test_images_of_scaled_decoding_keep_their_extent():
    decoded = Image.fromarray(np.random.default_rng(2).integers(0, 256, (40, 60), dtype=np.uint8))
    decoded.info[EXTENT] = Extent((237, 158), (0, 0, 59.25, 39.5))
    prepare = make_preprocessing(crop_size=16, resize_size=16, interpolation="bilinear",
                                 mean=[0.5] * 3, std=[0.5] * 3)  # fmt: skip
    boxes = set()
    for seed in range(10):
        out = ImageAugmentation(horizontal_flip=True, rotation_range=5)(decoded, seed)
        boxes.add(out.info[EXTENT].box)
        assert prepare(out).shape == (1, 16, 16)
    assert boxes == {(0, 0, 59.25, 39.5), (0.75, 0, 60, 39.5)}
    resized = resolve_augmentation(lambda image: image.resize((10, 10)))(decoded, 0)
    assert EXTENT not in resized.info
    assert prepare(resized).shape == (3, 16, 16)


# A parameter object


class Holder(BaseEstimator):
    def __init__(self, augmentation=None):
        self.augmentation = augmentation


def test_searches_reach_its_parameters(image):
    holder = clone(Holder(ImageAugmentation(width_shift_range=0.2)))
    holder.set_params(augmentation__rotation_range=45, augmentation__width_shift_range=0.0)
    reference = ImageAugmentation(rotation_range=45)
    assert holder.augmentation(image, 1) == reference(image, 1)
    assert holder.augmentation.fingerprint == reference.fingerprint
    assert holder.get_params()["augmentation__rotation_range"] == 45


def test_fingerprints_tell_parameters_apart():
    prints = {
        ImageAugmentation(**{name: value}).fingerprint
        for name, value in EVERYTHING.get_params().items()
        if name != "crop_ratio"
    }
    off = {"mixup", "cutmix", "cval"}  # at their defaults in EVERYTHING
    assert len(prints) == len(EVERYTHING.get_params()) - 1 - len(off) + 1
    assert ImageAugmentation(zoom_range=0.5).fingerprint == (
        ImageAugmentation(zoom_range=[0.5, np.float64(1.5)]).fingerprint
    )
    assert pickle.loads(pickle.dumps(EVERYTHING)).fingerprint == EVERYTHING.fingerprint
    assert resolve_augmentation(noisy_callable).fingerprint is None


def test_presets_augment_and_medical_mirrors_nothing(image):
    for name in ("light", "standard", "medical"):
        augmentation = resolve_augmentation(name)
        assert len({out.tobytes() for out in draws(augmentation, image, 5)}) == 5
    assert not augmentation.horizontal_flip
    assert not augmentation.vertical_flip


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rotation_range": -1}, "'rotation_range' parameter .* range .* Got -1"),
        ({"width_shift_range": "a"}, "'width_shift_range' parameter"),
        ({"height_shift_range": []}, "height_shift_range must not be an empty"),
        ({"width_shift_range": [np.nan]}, "finite"),
        (
            {"zoom_range": (0.0, 1.0)},
            r"zoom_range must be two numbers .* above 0; got \(0.0, 1.0\)",
        ),
        ({"zoom_range": 1.0}, "'zoom_range' parameter"),
        ({"brightness_range": (2, 1)}, "brightness_range .* low <= high"),
        ({"brightness_range": (1, 1, 1)}, "brightness_range must be two numbers"),
        ({"crop_scale": (0.5, 2)}, "crop_scale .* at most 1"),
        ({"fill_mode": "mirror"}, "'fill_mode' parameter .* 'mirror'"),
        ({"horizontal_flip": "yes"}, "'horizontal_flip' parameter"),
        ({"mixup": -0.1}, "'mixup' parameter"),
    ],
)
def test_bad_parameters_are_refused(image, parameters, message):
    augmentation = ImageAugmentation(**parameters)  # the constructor only stores
    with pytest.raises(ValueError, match=message):
        augmentation.validate()
    with pytest.raises(ValueError, match=message):
        augmentation(image, 0)
    with pytest.raises(ValueError, match=message):
        resolve_augmentation(augmentation)


def test_bad_presets_seeds_and_images_are_refused(image):
    with pytest.raises(ValueError, match=r"preset 'strong'; there are \['light'"):
        resolve_augmentation("strong")
    with pytest.raises(TypeError, match=r"name of a preset .* got 3"):
        resolve_augmentation(3)
    with pytest.raises(ValueError, match="seed must be an integer"):
        EVERYTHING(image, -1)
    with pytest.raises(TypeError, match=r"dtype uint8. Image.fromarray"):
        EVERYTHING(np.asarray(image), 0)
    with pytest.raises(TypeError, match="mode CMYK"):
        EVERYTHING(image.convert("CMYK"), 0)


# Callables


def test_callables_may_return_any_image(image, noise, smooth):
    for function in (
        lambda pil_image: pil_image,
        np.asarray,
        lambda pil_image: torch.from_numpy(np.asarray(pil_image).transpose(2, 0, 1).copy()),
        v2.Compose([v2.ToImage()]),
    ):
        assert resolve_augmentation(function)(image, 0) == image
    floats = resolve_augmentation(v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))
    np.testing.assert_allclose(floats(image, 0), noise / 255, atol=1e-6)
    mirrored = resolve_augmentation(v2.RandomHorizontalFlip(1.0))(smooth, 0)
    np.testing.assert_array_equal(mirrored, smooth[:, ::-1])
    seen = resolve_augmentation(lambda array: array[::-1])(smooth[..., 0].copy(), 0)
    np.testing.assert_array_equal(seen, np.repeat(smooth[::-1, :, :1], 3, axis=2))


def test_callables_that_return_no_image_are_errors(image):
    with pytest.raises(TypeError, match=r"returned NoneType; expected a Pillow image"):
        resolve_augmentation(lambda pil_image: None)(image, 0)
    with pytest.raises(ValueError, match=r"values from -2.* Leave the normalization out"):
        resolve_augmentation(lambda pil_image: np.full((4, 4), -2.0))(image, 0)
    with pytest.raises(TypeError, match=r"a tensor of shape \(2, 4, 4\)"):
        resolve_augmentation(lambda pil_image: torch.zeros(2, 4, 4))(image, 0)


# mixup and CutMix


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_shares_images_and_targets_alike(alphas):
    augmentation = ImageAugmentation(**alphas)
    assert augmentation.mixes
    assert augmentation.is_identity  # of single images
    batch = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).clone()
    targets = torch.tensor([0, 1, 2, 3])
    state = torch.get_rng_state()
    kinds = set()
    for seed in range(12):
        mixed, soft = augmentation.mix(batch, targets, seed, n_classes=4)
        again, _ = augmentation.mix(batch, targets, seed, n_classes=4)
        assert torch.equal(mixed, again)
        # A target is the share of each image.
        values = torch.arange(4.0)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft @ values)
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        kinds.add(len(mixed[0].unique()) == 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(batch[:, 0, 0, 0], torch.arange(4.0))
    if "cutmix" in alphas:
        assert False in kinds
    if "mixup" in alphas:
        assert True in kinds


def test_mixing_refuses_bad_batches_and_targets():
    batch, targets = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    off, on = ImageAugmentation(), ImageAugmentation(mixup=1)
    same, soft = off.mix(batch, targets, 0, n_classes=2)
    assert same is batch
    assert torch.equal(soft, torch.eye(2))
    assert torch.equal(on.mix(batch, soft, 0)[0], batch)
    with pytest.raises(ValueError, match="pass n_classes"):
        on.mix(batch, targets, 0)
    with pytest.raises(ValueError, match="float tensor"):
        on.mix(batch.byte(), soft, 0)
    with pytest.raises(ValueError, match="class indices of shape"):
        on.mix(batch, torch.rand(2), 0)
    assert not resolve_augmentation(noisy_callable).mixes
