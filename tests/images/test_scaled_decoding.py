"""Decoding large JPEGs at a fraction of their size: what it saves and how little it changes."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer._images import EncodedImage, as_image_source, make_preprocessing
from sktransfer._utils import config as _config
from sktransfer.exceptions import ImageDecodeError

# Stated in docs/user_guide/scale.rst: mean absolute change of the network's input, in gray levels
# of 255, of any one image; of its embedding, per-row L2, relative, of any one and the median one.
PIXELS = 1.0
EMBEDDING = 0.1
EMBEDDING_MEDIAN = 0.04

LIKE_RESNET = {
    "crop_size": 224,
    "resize_size": 256,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
ORIENTATION = 0x0112


def preprocess(scaled=True, **parameters):
    return make_preprocessing(**{**LIKE_RESNET, **parameters}, scaled_decoding=scaled)


def smooth(size, mode="RGB", seed=0):
    """A random image without fine detail, different in every corner."""
    rng = np.random.default_rng(seed)
    n = len(Image.new(mode, (1, 1)).getbands())
    coarse = rng.integers(0, 256, (12, 16, n), dtype=np.uint8)
    bands = [
        Image.fromarray(coarse[:, :, i]).resize(size, Image.Resampling.BICUBIC) for i in range(n)
    ]
    return Image.merge(mode, bands)


def mosaic(files, size, seed=0):
    """A large image with all the detail of real photographs: many of them, side by side."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    for top in range(0, size[1], 288):
        for left in range(0, size[0], 288):
            with Image.open(files[rng.integers(len(files))]) as photo:
                image.paste(photo.convert("RGB"), (left, top))
    return image


def enlarged(file, width, seed=0):
    """A photograph as a larger sensor would have it, with noise."""
    with Image.open(file) as photo:
        height = round(width * photo.height / photo.width)
        large = photo.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    return Image.fromarray((np.asarray(large) + noise).clip(0, 255).astype(np.uint8))


def jpeg(image, **parameters):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **parameters})
    return buffer.getvalue()


def opened(data):
    return as_image_source([data]).open(0)


def change(data, preprocessing):
    """Mean absolute change of the network's input, in gray levels."""
    full = preprocessing(opened(data).decode())
    scaled = preprocessing(opened(data).decode(preprocessing.min_decode_side))
    assert full.shape == scaled.shape
    return np.abs(full.astype(float) - scaled).mean()


# --- off by default ---------------------------------------------------------------------------


def test_scaled_decoding_is_off_by_default():
    preprocessing = make_preprocessing(**LIKE_RESNET)
    assert preprocessing.min_decode_side is None
    assert preprocessing == preprocess(scaled=False)
    data = jpeg(smooth((1100, 1030)))
    with Image.open(io.BytesIO(data)) as plain:
        expected = np.asarray(plain)
    for image in (opened(data).decode(), opened(data).decode(None)):
        assert np.array_equal(np.asarray(image), expected)


def test_the_fingerprint_tells_scaled_from_full_decoding():
    plain, scaled = preprocess(scaled=False), preprocess()
    assert plain.fingerprint == make_preprocessing(**LIKE_RESNET).fingerprint
    assert scaled.fingerprint != plain.fingerprint
    assert scaled.fingerprint == preprocess().fingerprint
    assert pickle.loads(pickle.dumps(scaled)) == scaled


def test_images_are_decoded_in_full_where_every_pixel_may_matter():
    assert preprocess(preprocessing=lambda image: image).min_decode_side is None
    nearest = preprocess(interpolation="nearest")
    assert nearest.min_decode_side is None
    assert nearest.fingerprint == preprocess(interpolation="nearest", scaled=False).fingerprint


# --- how much is decoded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((4032, 3024), 4),
        ((3024, 4032), 4),
        ((4100, 4097), 8),
        ((2017, 1513), 2),
        ((1024, 1024), 2),
        ((1023, 1023), 1),  # a half would be 512 x 512 only by rounding up
        ((5000, 600), 1),  # elongated: the shorter side counts
        ((300, 200), 1),
        ((100, 90), 1),
    ],
)
def test_each_side_stays_at_twice_what_it_is_resized_to(size, factor):
    preprocessing = preprocess()
    assert preprocessing.min_decode_side == 512
    image = opened(jpeg(smooth(size))).decode(512)
    assert image.size == tuple(-(-side // factor) for side in size)  # rounded up
    if factor > 1:
        resized = [length for length, _, _ in preprocessing._geometry(size)]
        assert all(have >= 2 * want for have, want in zip(image.size, resized, strict=True))
        assert min(image.size) < 2 * 512  # and no more than needed


@pytest.mark.parametrize("mode", ["weights", "resize", "pad"])
@pytest.mark.parametrize("size", [(2700, 1030), (1030, 2700), (1800, 1700)])
def test_no_way_of_resizing_enlarges(mode, size):
    preprocessing = preprocess(preprocessing=mode)
    decoded = opened(jpeg(smooth(size))).decode(preprocessing.min_decode_side)
    assert decoded.size != size
    resized = [length for length, _, _ in preprocessing._geometry(size)]
    assert all(have >= 2 * want for have, want in zip(decoded.size, resized, strict=True))


def test_only_jpeg_files_are_scaled():
    image = smooth((1100, 1100))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    for row in (buffer.getvalue(), image, np.asarray(image)):
        assert opened(row).decode(100).size == (1100, 1100)
    deep = (np.asarray(image) / 255).astype(np.float32)
    assert opened(deep).decode(100).shape == (1100, 1100, 3)


# --- how little it changes ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2048, 1536), (2017, 1513), (1511, 2019), (4107, 4101)])
@pytest.mark.parametrize("mode", ["weights", "resize", "pad"])
def test_a_smooth_image_hardly_changes(size, mode):
    """Of sizes no multiple of the factor, too: a shift of half a pixel would show."""
    preprocessing = preprocess(preprocessing=mode)
    data = jpeg(smooth(size))
    assert opened(data).decode(preprocessing.min_decode_side).size != size
    assert change(data, preprocessing) < 0.3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_images_are_turned_like_whole_ones(orientation):
    """1517 = 2 * 759 - 1 both ways round: where the cut pixel ends up depends on the turn."""
    image = smooth((2017, 1517), seed=orientation)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = jpeg(image, exif=exif)
    preprocessing = preprocess(preprocessing="pad")
    assert opened(data).decode(512).size == ((1009, 759) if orientation < 5 else (759, 1009))
    assert change(data, preprocessing) < 0.3


@pytest.mark.parametrize(
    ("mode", "parameters"),
    [
        ("L", {}),
        ("CMYK", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 2}),
        ("L", {"progressive": True}),
    ],
)
def test_every_kind_of_jpeg_is_scaled(mode, parameters):
    data = jpeg(smooth((1601, 1203), mode), **parameters)
    image = opened(data).decode(512)
    assert image.mode == ("L" if mode == "L" else "RGB")
    assert image.size == (801, 602)
    assert change(data, preprocess()) < 0.4


def photographs(shared_data, n):
    files = sorted((shared_data / "imagenet_samples").rglob("*.*"))
    files = [file for file in files if file.suffix.lower() in (".jpg", ".jpeg")]
    return files[:: len(files) // n][:n]


@pytest.mark.parametrize("size", [(2017, 1513), (1280, 1024)])
def test_photographs_change_within_the_stated_tolerance(shared_data, size):
    files = photographs(shared_data, 40)
    preprocessing = preprocess()
    changes = [change(jpeg(mosaic(files, size, seed)), preprocessing) for seed in range(3)]
    changes += [
        change(jpeg(enlarged(file, 2017, seed)), preprocessing)
        for seed, file in enumerate(files[:5])
    ]
    assert min(changes) > 0
    assert max(changes) < PIXELS


def test_embeddings_change_within_the_stated_tolerance(shared_data, monkeypatch):
    files = photographs(shared_data, 8)
    X = [jpeg(enlarged(file, 2017, seed)) for seed, file in enumerate(files)]
    X += [jpeg(mosaic(files, (2017, 1513), seed)) for seed in range(2)]
    own = PretrainedFeatureExtractor("efficientnet_lite0", cache=False).fit(X)
    plain = own.transform(X)
    side = preprocess(**own_preprocessing(own)).min_decode_side
    decode = EncodedImage.decode
    monkeypatch.setattr(EncodedImage, "decode", lambda self, *_: decode(self, side))
    relative = np.linalg.norm(own.transform(X) - plain, axis=1) / np.linalg.norm(plain, axis=1)
    assert relative.min() > 0
    assert relative.max() < EMBEDDING
    assert np.median(relative) < EMBEDDING_MEDIAN


def own_preprocessing(extractor):
    spec = extractor._info.input_spec
    return {"crop_size": spec.crop_size, "resize_size": spec.resize_size}


# --- what must not give way --------------------------------------------------------------------


def test_the_size_that_counts_is_that_of_the_decoded_image(monkeypatch):
    data = jpeg(smooth((1300, 1300)))
    monkeypatch.setattr(_config, "MAX_IMAGE_PIXELS", 1300 * 1300 - 1)
    assert opened(data).decode(100).size == (163, 163)
    with pytest.raises(ImageDecodeError, match=r"1300 x 1300 .*scaled_decoding=True reads it"):
        opened(data).decode()
    monkeypatch.setattr(_config, "MAX_IMAGE_PIXELS", 1300 * 1300 // 4 - 1)
    with pytest.raises(ImageDecodeError, match=r"1300 x 1300 .*accepted with scaled_decoding"):
        opened(data).decode(100)
    with pytest.raises(ImageDecodeError, match=r"1300 x 1300 .*bomb\). Shrink it first"):
        opened(data).decode()


@pytest.mark.parametrize("progressive", [False, True])
def test_half_an_image_is_still_an_error(progressive):
    data = jpeg(smooth((1600, 1200)), progressive=progressive)
    with pytest.raises(ImageDecodeError, match=r"truncated|damaged"):
        opened(data[: len(data) // 2]).decode(512)
