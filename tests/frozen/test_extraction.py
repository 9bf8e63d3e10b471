"""The guarantees of a run: order, once each, bounded, nobody else's row, memory back-off."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from sktransfer._frozen import Extraction, MemoryStore
from sktransfer._images import as_image_source, make_preprocessing
from sktransfer.exceptions import ImageDecodeError

SIDE = 8


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


class Network:
    """Means of the channels, with a record of the batches it saw."""

    def __init__(self, fail_above=None):
        self.batches = []
        self.fail_above = fail_above

    def __call__(self, batch):
        if self.fail_above and len(batch) > self.fail_above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        self.batches.append(len(batch))
        return [batch.mean((2, 3)).numpy(), batch.amax((1, 2, 3))[:, None].numpy()]


def extraction(X, network, **changes):
    settings = {
        "preprocessing": make_preprocessing(
            crop_size=SIDE,
            resize_size=SIDE,
            interpolation="bilinear",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        "widths": (3, 1),
        "dtypes": (np.dtype(np.float32),) * 2,
        "fingerprints": (b"mean", b"max"),
        "batch_size": 4,
        "n_threads": 2,
    }
    return Extraction(as_image_source(X), network, **{**settings, **changes})


def expected(X):
    scaled = X.astype(np.float32) / 255
    return np.hstack([scaled.mean((1, 2)), scaled.max((1, 2, 3))[:, None]])


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 100, "auto"])
def test_rows_in_order_whatever_the_batch(n_threads, batch_size):
    X = images(13)
    rows, failures = extraction(X, Network(), n_threads=n_threads, batch_size=batch_size).run()
    np.testing.assert_allclose(rows, expected(X), rtol=1e-6)
    assert failures == []


def test_equal_images_are_computed_once():
    X = images(5)[[0, 1, 0, 2, 3, 0, 4, 1, 4]]
    network = Network()
    rows = extraction(X, network).run()[0]
    assert sum(network.batches) == 5
    np.testing.assert_allclose(rows, expected(X), rtol=1e-6)


def test_a_store_is_filled_and_read():
    store, X = MemoryStore(), images(6)
    first, second = Network(), Network()
    one = extraction(X[:4], first, store=store).run()[0]
    two = extraction(X, second, store=store).run()[0]
    assert sum(first.batches) == 4
    assert sum(second.batches) == 2
    assert np.array_equal(one, two[:4])


def test_parts_are_stored_each_for_itself():
    store, X = MemoryStore(), images(6)
    extraction(X, Network(), store=store).run()
    dtypes = (np.dtype(np.float32),)
    # None would fail if it were called.
    alone = extraction(X, None, store=store, widths=(1,), dtypes=dtypes, fingerprints=(b"max",))
    np.testing.assert_allclose(alone.run()[0], expected(X)[:, 3:], rtol=1e-6)


def test_another_fingerprint_is_another_row():
    store, X = MemoryStore(), images(3)
    network = Network()
    extraction(X, network, store=store).run()
    extraction(X, network, store=store, fingerprints=(b"mean2", b"max")).run()
    assert sum(network.batches) == 6


def test_nothing_is_stored_without_a_fingerprint():
    store = MemoryStore()
    extraction(images(3), Network(), store=store, fingerprints=None).run()
    assert store.info().n_rows == 0


def broken(tmp_path):
    """Five rows of which 1 and 4 are one broken file, and 3 is not there."""
    from PIL import Image

    names = []
    for i, array in enumerate(images(2)):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
        names.append(str(tmp_path / f"{i}.png"))
    (tmp_path / "bad.png").write_bytes(b"not an image")
    bad = str(tmp_path / "bad.png")
    return [names[0], bad, names[1], str(tmp_path / "absent.png"), bad]


def test_a_row_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ImageDecodeError, match=r"row 1 \(.*bad\.png\)") as caught:
        extraction(broken(tmp_path), Network()).run()
    assert caught.value.index == 1


def test_a_row_that_cannot_be_read_is_nan_on_request(tmp_path):
    rows, failures = extraction(broken(tmp_path), Network(), on_error="nan").run()
    assert [failure.index for failure in failures] == [1, 3, 4]
    assert np.isnan(rows[[1, 3, 4]]).all()
    np.testing.assert_allclose(rows[[0, 2]], expected(images(2)), rtol=1e-6)
    assert "absent.png" in str(failures[1])


def test_out_of_memory_halves_the_batch_and_says_so_once():
    X, network = images(20), Network(fail_above=3)
    with pytest.warns(RuntimeWarning, match="ran out of memory") as caught:
        rows = extraction(X, network, batch_size=16).run()[0]
    assert len(caught) == 1
    assert max(network.batches) <= 3
    np.testing.assert_allclose(rows, expected(X), rtol=1e-6)


def test_out_of_memory_with_one_image_is_an_error():
    class Never(Network):
        def __call__(self, batch):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        pytest.warns(RuntimeWarning, match="smaller batches"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        extraction(images(4), Never()).run()


def test_another_runtime_error_is_not_swallowed():
    def fail(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        extraction(images(4), fail).run()


def test_an_interrupted_run_keeps_what_it_finished():
    store, X = MemoryStore(), images(12)

    class Interrupted(Network):
        def __call__(self, batch):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().__call__(batch)

    with pytest.raises(KeyboardInterrupt):
        extraction(X, Interrupted(), store=store).run()
    rest = Network()
    rows = extraction(X, rest, store=store).run()[0]
    assert sum(rest.batches) == 4
    np.testing.assert_allclose(rows, expected(X), rtol=1e-6)
    assert not [t for t in threading.enumerate() if t.name.startswith("sktransfer-decode")]


def test_no_more_than_a_few_batches_are_decoded_ahead():
    X = images(200)
    settings = extraction(X, None)
    alive, most = 0, 0
    lock = threading.Lock()
    plain = settings.preprocessing

    class Counting:
        fingerprint, min_decode_side = plain.fingerprint, None
        stack, normalize = plain.stack, plain.normalize

        def __call__(self, image):
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)
            return plain(image)

    def slow(batch):
        nonlocal alive
        time.sleep(0.005)
        with lock:
            alive -= len(batch)
        return Network()(batch)

    settings.compute, settings.preprocessing = slow, Counting()
    settings.run()
    assert most <= 3 * settings.batch_size + settings.n_threads


def test_decoding_and_the_network_overlap():
    X = images(40)
    settings = extraction(X, None, n_threads=2)
    plain = settings.preprocessing
    decoding_while_computing = []
    computing = threading.Event()

    class Slow:
        fingerprint, min_decode_side = plain.fingerprint, None
        stack, normalize = plain.stack, plain.normalize

        def __call__(self, image):
            if computing.is_set():
                decoding_while_computing.append(True)
            time.sleep(0.001)
            return plain(image)

    def slow(batch):
        computing.set()
        time.sleep(0.02)
        computing.clear()
        return Network()(batch)

    settings.compute, settings.preprocessing = slow, Slow()
    settings.run()
    assert decoding_while_computing


def test_progress_bar_counts_every_row(capsys, tmp_path):
    extraction(broken(tmp_path), Network(), on_error="nan", progress="demo").run()
    written = capsys.readouterr().err
    assert "demo" in written
    assert "5/5" in written
    assert "image/s" in written
