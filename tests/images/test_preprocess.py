"""Preprocessing against torchvision's own transforms, and the ways to override it."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models, transforms
from torchvision.transforms import functional as F

from sktransfer._images import as_image_source, make_preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WEIGHTS = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50_v2": models.ResNet50_Weights.IMAGENET1K_V2,  # resized to 232
    "inception_v3": models.Inception_V3_Weights.IMAGENET1K_V1,
    "vit_b_16": models.ViT_B_16_Weights.IMAGENET1K_V1,
    "efficientnet_b0": models.EfficientNet_B0_Weights.IMAGENET1K_V1,  # bicubic
    "swin_t": models.Swin_T_Weights.IMAGENET1K_V1,
}
# (width, height): landscape, portrait, square, odd, as large as the crop, tiny, nearly elongated
SIZES = [(320, 240), (211, 500), (256, 256), (333, 257), (224, 224), (7, 13), (400, 101), (1, 1)]


def image(size, mode="RGB", seed=0):
    """Smooth and noisy at once, so that wrong filters and wrong offsets both show."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (5 + c)) + np.cos(y / (3 + c)) for c in range(3)]
    noise = rng.normal(size=(height, width, 3))
    values = 60 * np.stack(planes, axis=-1) / 2 + 30 * noise + 128
    pil_image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return pil_image if mode == "RGB" else pil_image.convert(mode)


def like(transform, **kwargs):
    """Our preprocessing with the numbers of a torchvision ImageClassification transform."""
    return make_preprocessing(
        crop_size=transform.crop_size[0],
        resize_size=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        mean=transform.mean,
        std=transform.std,
        **kwargs,
    )


def plain(crop_size=224, resize_size=256, interpolation="bilinear", **kwargs):
    return make_preprocessing(
        crop_size=crop_size,
        resize_size=resize_size,
        interpolation=interpolation,
        **{**IMAGENET, **kwargs},
    )


@pytest.mark.parametrize("name", WEIGHTS)
def test_results_are_bit_equal_to_torchvision(name):
    transform = WEIGHTS[name].transforms()
    ours = like(transform)
    images = [image(size, seed=i) for i, size in enumerate(SIZES)]
    expected = torch.stack([transform(p) for p in images])
    got = ours.to_batch([ours(p) for p in images])
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_results_are_bit_equal_on_real_images(name, shared_data):
    transform = WEIGHTS[name].transforms()
    ours = like(transform)
    paths = sorted((shared_data / "imagenet_samples").rglob("*.jpg"))[::8]
    assert len(paths) >= 20
    source = as_image_source(paths)
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            expected = transform(image.convert("RGB"))
        got = ours.to_batch([ours(source.open(i).decode())])[0]
        assert torch.equal(got, expected), path.name


def test_gray_equals_its_color_version():
    ours = plain()
    gray = image((300, 200), "L")
    assert ours(gray).shape == (1, 224, 224)
    assert torch.equal(ours.to_batch([ours(gray)]), ours.to_batch([ours(gray.convert("RGB"))]))


def test_crop_larger_than_the_resized_image_is_padded_like_torchvision():
    ours = plain(crop_size=64, resize_size=33)
    for size in [(90, 60), (60, 90), (33, 33), (50, 300), (301, 50)]:
        pil_image = image(size)
        expected = F.center_crop(F.resize(pil_image, [33]), [64])
        assert np.array_equal(ours(pil_image), np.asarray(expected).transpose(2, 0, 1)), size


@pytest.mark.parametrize("size", [(1200, 100), (90, 2000), (28, 1), (1, 97)])
def test_elongated_images_are_bit_equal_too(size):
    transform = WEIGHTS["resnet18"].transforms()
    ours = like(transform)
    pil_image = image(size)
    assert torch.equal(ours.to_batch([ours(pil_image)])[0], transform(pil_image))


@pytest.mark.parametrize("size", [(700, 2), (2, 700), (601, 2), (300, 1)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_strips_match_the_plain_way_within_rounding(size, interpolation):
    ours = plain(interpolation=interpolation)
    pil_image = image(size)
    mode = transforms.InterpolationMode(interpolation)
    expected = np.asarray(F.center_crop(F.resize(pil_image, [256], mode), [224])).transpose(2, 0, 1)
    assert np.abs(ours(pil_image).astype(int) - expected).max() <= 4

    deep = np.asarray(pil_image.convert("L")).astype(np.float32) / 255  # nothing is rounded here
    plane = Image.fromarray(deep)
    expected = np.asarray(F.center_crop(F.resize(plane, [256], mode), [224])).clip(0, 1)
    assert np.allclose(ours(deep)[0], expected, rtol=0, atol=1e-3)


def test_elongated_images_need_no_huge_intermediate():
    ours = plain()
    start = time.perf_counter()
    assert ours(image((60_000, 1))).shape == (3, 224, 224)  # the plain way: 4 billion pixels
    assert time.perf_counter() - start < 5


def test_squash_equals_resizing_both_sides():
    ours = plain(128, 140, "bicubic", resize_mode="squash")
    pil_image = image((300, 200))
    mode = transforms.InterpolationMode.BICUBIC
    expected = F.center_crop(F.resize(pil_image, [140, 140], mode), [128])
    assert np.array_equal(ours(pil_image), np.asarray(expected).transpose(2, 0, 1))


def test_deep_images_agree_with_eight_bit_ones():
    for interpolation in ("bilinear", "bicubic"):
        ours = plain(interpolation=interpolation)
        for pil_image in (image((320, 240)), image((150, 700), "L")):
            pil_image = Image.eval(pil_image, lambda level: 64 + level // 2)  # no overshoot to clip
            deep = np.asarray(pil_image).astype(np.float32) / 255
            result = ours(deep)
            assert result.dtype == np.float32
            assert result.min() >= 0
            assert result.max() <= 1
            # Eight bits are rounded after each of the two passes.
            assert np.abs(result - ours(pil_image) / np.float32(255)).max() < 2.5 / 255


def test_deep_images_keep_levels_that_eight_bits_lose():
    levels = np.linspace(0, 65535, 65536).reshape(256, 256).astype(np.uint16)
    deep = as_image_source(levels[None]).open(0).decode()
    assert len(np.unique(plain()(deep))) > 20_000


def test_mixed_batches_do_not_change_their_members():
    ours = plain()
    eight = image((300, 200))
    deep = np.asarray(image((240, 240), seed=1)).astype(np.float32) / 255
    gray = image((100, 100), "L")
    alone = torch.cat([ours.to_batch([ours(p)]) for p in (eight, deep, gray)])
    together = ours.to_batch([ours(p) for p in (eight, deep, gray)])
    assert torch.allclose(alone, together, rtol=0, atol=1e-6)


def test_stack_keeps_bytes_for_the_device():
    ours = plain()
    batch = ours.stack([ours(image((300, 200))), ours(image((300, 200), "L"))])
    assert batch.dtype == torch.uint8
    assert batch.shape == (2, 3, 224, 224)
    assert torch.equal(ours.normalize(batch), ours.to_batch(list(batch.numpy())))


def test_normalize_does_not_write_into_its_input():
    ours = plain()
    batch = torch.rand(1, 3, 224, 224)
    before = batch.clone()
    ours.normalize(batch)
    assert torch.equal(batch, before)


# -- overrides -----------------------------------------------------------------------------------


def test_resize_keeps_the_whole_image():
    pil_image = image((300, 100))
    ours = plain(preprocessing="resize")
    expected = np.asarray(pil_image.resize((224, 224), Image.Resampling.BILINEAR))
    assert np.array_equal(ours(pil_image), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (50, 50), (1, 1000), (1001, 333)])
def test_pad_keeps_the_aspect_ratio_and_everything(size):
    ours = plain(preprocessing="pad")
    result = ours(Image.new("RGB", size, "white"))
    assert result.shape == (3, 224, 224)
    inside = result[0] == 255
    assert set(np.unique(result)) <= {0, 255}
    width, height = inside.any(axis=0).sum(), inside.any(axis=1).sum()
    scale = 224 / max(size)
    assert abs(width - max(1, size[0] * scale)) <= 1
    assert abs(height - max(1, size[1] * scale)) <= 1
    columns = np.flatnonzero(inside.any(axis=0))
    assert abs(columns[0] - (223 - columns[-1])) <= 1  # centerd


def test_image_size_keeps_the_proportion_of_the_resize():
    ours = plain(image_size=112)
    assert ours.size == 112
    pil_image = image((320, 240))
    expected = F.center_crop(F.resize(pil_image, [128]), [112])
    assert np.array_equal(ours(pil_image), np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["weights", "resize", "pad"])
def test_image_size_is_the_size(mode):
    ours = plain(image_size=96, preprocessing=mode)
    assert ours(image((320, 240))).shape == (3, 96, 96)


def test_a_torchvision_transform_can_be_the_callable():
    transform = WEIGHTS["resnet18"].transforms()
    ours = plain(preprocessing=transform)
    for pil_image in (image((320, 240)), image((320, 240), "L")):
        got = ours.to_batch([ours(pil_image)])[0]
        assert torch.equal(got, transform(pil_image.convert("RGB")))


def test_a_callable_that_returns_an_image_is_followed_by_the_weights_preprocessing():
    def invert(pil_image):
        return Image.eval(pil_image, lambda level: 255 - level)

    ours, standard = plain(preprocessing=invert), plain()
    pil_image = image((320, 240))
    assert torch.equal(
        ours.to_batch([ours(pil_image)]), standard.to_batch([standard(invert(pil_image))])
    )


def test_a_callable_gets_color_floats_for_deep_data():
    seen = []

    def look(deep):
        seen.append((deep.shape, deep.dtype))
        return deep

    ours, standard = plain(preprocessing=look), plain()
    deep = np.random.default_rng(0).random((50, 60)).astype(np.float32)
    got = ours.to_batch([ours(deep)])
    assert seen == [((50, 60, 3), np.float32)]
    assert torch.equal(got, standard.to_batch([standard(deep)]))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(3, 10, 10), r"shape \(3, 10, 10\).*expected \(3, 224, 224\)"),
        (torch.zeros(1, 3, 224, 224), "expected"),
        (None, "returned NoneType"),
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\)"),
        (np.full((5, 5), 7.0), "floats in"),
    ],
)
def test_a_callable_that_returns_no_image_is_an_error(result, message):
    ours = plain(preprocessing=lambda pil_image: result)
    with pytest.raises((TypeError, ValueError), match=message):
        ours(image((20, 20)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"interpolation": "cubic"}, "interpolation"),
        ({"resize_mode": "longest"}, "resize_mode"),
        ({"preprocessing": "letterbox"}, "preprocessing"),
        ({"image_size": 0}, "image_size"),
    ],
)
def test_bad_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        plain(**bad)


# -- fingerprints ----------------------------------------------------------------------------------


def test_fingerprints_tell_everything_apart():
    variants = [
        plain(),
        plain(crop_size=223),
        plain(resize_size=255),
        plain(interpolation="bicubic"),
        plain(mean=(0.5, 0.5, 0.5)),
        plain(std=(0.5, 0.5, 0.5)),
        plain(resize_mode="squash"),
        plain(preprocessing="resize"),
        plain(preprocessing="pad"),
        plain(image_size=112),
    ]
    assert len({v.fingerprint for v in variants}) == len(variants)
    # torchvision's own transform is nothing but its numbers.
    same = plain(preprocessing=WEIGHTS["resnet18"].transforms())
    other = plain(preprocessing=WEIGHTS["efficientnet_b0"].transforms())
    assert same.fingerprint == plain().fingerprint != other.fingerprint


def test_equal_parameters_have_equal_fingerprints():
    assert plain().fingerprint == plain(mean=list(IMAGENET["mean"])).fingerprint
    assert plain().fingerprint == plain(image_size=224).fingerprint
    assert plain().fingerprint == pickle.loads(pickle.dumps(plain())).fingerprint
    # Stable across processes and versions: a change here orphans every store on disk.
    assert plain().fingerprint == (
        "preprocessing(1, 224, 256, 'shortest', 'bilinear', "
        "(0.485, 0.456, 0.406), (0.229, 0.224, 0.225))"
    )


def test_only_a_callable_with_a_fingerprint_has_one():
    assert plain(preprocessing=lambda image: image).fingerprint is None

    class Named:
        fingerprint = "clahe-2"

        def __call__(self, image):
            return image

    assert "clahe-2" in plain(preprocessing=Named()).fingerprint
