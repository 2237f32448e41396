import dataclasses
import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal
from sklearn.datasets import load_digits

from bat.config import Npz, Packaged, Published, ResidualModel, SizedModel
from bat.data.dataset import DataSet, Part, augment, fits, free_on_device, load_source, split, stratified_order
from bat.data.sources import Samples, Source
from bat.errors import BatError
from bat.models import build
from bat.seeds import generator


def digits(train=600, validation=200, seed=0):
    return load_source(
        Packaged(name="digits", train_samples=train, validation_samples=validation, split_seed=seed), subsample=1.0
    )


@pytest.fixture(scope="module")
def data():
    return digits()


def test_digits_are_split_into_parts_of_the_asked_sizes_that_cover_all(data):
    assert [len(part) for part in data.parts().values()] == [600, 200, 997]
    assert data.classes == 10
    everything = torch.cat([part.index for part in data.parts().values()])
    assert everything.sort().values.tolist() == list(range(1797))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_each_sample_is_the_row_of_its_index_in_scikit_learn(data, name):
    source, part = load_digits(), data.parts()[name]
    assert (part.pixels.dtype, part.pixel_max) == (torch.uint8, 16)
    assert (part.labels.dtype, part.index.dtype) == (torch.int64, torch.int64)
    assert part.pixels.shape == (len(part), 1, 8, 8)
    np.testing.assert_array_equal(part.pixels[:, 0], source.images[part.index])
    np.testing.assert_array_equal(part.labels, source.target[part.index])
    assert part.index.tolist() == sorted(part.index.tolist())


@pytest.mark.parametrize(("train", "validation"), [(600, 200), (100, 50), (1500, 250), (20, 2)])
def test_each_split_has_the_class_shares_of_the_whole(train, validation):
    shares = np.bincount(load_digits().target) / 1797
    for part in digits(train, validation, seed=3).parts().values():
        counts = np.bincount(part.labels, minlength=10)
        assert np.abs(counts - shares * len(part)).max() < 2


def test_splits_depend_on_the_seed_alone(data):
    before = torch.get_rng_state()
    again, other = digits(seed=0), digits(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert data.digest() == again.digest()
    assert all(torch.equal(data.parts()[name].index, again.parts()[name].index) for name in data.parts())
    assert not torch.equal(data.train.index, other.train.index)


@pytest.mark.parametrize(("train", "validation"), [(1797, 2), (1700, 97), (1000, 900), (10**9, 2)])
def test_a_split_that_leaves_no_test_sample_is_refused(train, validation):
    assert refusal(digits, train, validation) == (
        f"data: train_samples + validation_samples is {train + validation}, but digits has 1797 images: lower them so "
        "that test samples are left"
    )


def test_one_test_sample_is_enough():
    assert len(digits(1700, 96).test) == 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**40))
def test_each_prefix_of_a_stratified_order_has_nearly_the_class_shares(labels, seed):
    labels = np.array(labels)
    order = stratified_order(torch.tensor(labels), seed).numpy()
    assert sorted(order) == list(range(len(labels)))
    classes, totals = np.unique(labels, return_counts=True)
    counts = (labels[order][:, None] == classes).cumsum(0)
    share = np.arange(1, len(labels) + 1)[:, None] * totals / len(labels)
    # a class has at most 1 more or less than its share of the time, the prefix at most 1 a class
    assert (np.abs(counts - share) <= 1 + len(classes) * totals / len(labels) + 1e-9).all()


def test_a_stratified_order_is_random_within_a_class():
    orders = [stratified_order(torch.zeros(20, dtype=torch.int64), seed).tolist() for seed in range(3)]
    assert sorted(orders[0]) == list(range(20))
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert stratified_order(torch.zeros(20, dtype=torch.int64), 0).tolist() == orders[0]


def test_an_order_is_the_same_in_each_version():
    order = stratified_order(torch.arange(10_000) % 7 // 2, 3)
    assert order[:6].tolist() == [2674, 4531, 1678, 3830, 1731, 104]
    assert hashlib.sha256(order.numpy().tobytes()).hexdigest().startswith("f36b5b9b72e84d24")


def pool(n, seed, classes=4):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n) % 10 * classes // 10)  # of each ten, 3, 2, 3 and 2
    pixels = torch.arange(n)[:, None, None, None].to(torch.uint8)
    return Samples(torch.tensor(labels), lambda rows: pixels[rows])


def parted(train="all", validation=20, seed=0):
    return Npz(name="npz", path="a", train_samples=train, validation_samples=validation, split_seed=seed)


def test_what_a_source_cannot_give_is_said():
    source = Source(pool(40, 0), pool(20, 1), tuple("abcd"), 255)

    def refused(source, **how):
        return refusal(lambda: split(source, parted(**how), subsample=1.0))

    few = "but the training part of npz has 40 images: lower them"
    assert refused(source, train=21) == f"data: train_samples is 21 and validation_samples 20, {few}"
    assert refused(source, validation=39) == f"data: train_samples is all and validation_samples 39, {few}"
    assert "classes have no training sample" in refused(source, validation=38)  # two samples are enough but for that
    assert len(split(source, parted(train=20), subsample=1.0).train) == 20
    one = dataclasses.replace(source, class_names=("a",))
    assert refused(one) == "data: npz has 1 class: give images of at least 2"
    named = dataclasses.replace(source, class_names=tuple("abcdef"))
    assert refused(named) == (
        "data: 2 of 6 classes have no training sample, e first: raise data.train_samples or subsample"
    )

    def damaged(what):
        def pixels(rows):
            raise BatError(f"{what}: {len(rows)} damaged")

        return Samples(source.train.labels, pixels)

    both = dataclasses.replace(source, train=damaged("one"), test=damaged("two"))
    assert refused(both, train=10, validation=5) == "one: 15 damaged; two: 40 damaged"


@given(st.integers(100, 255), st.integers(40, 90), st.integers(5, 10), st.floats(0.3, 1), st.integers(0, 99))
@settings(max_examples=40)
def test_a_trial_takes_a_stratified_part_of_each_split(n, train, validation, subsample, seed):
    for source in (
        Source(pool(n, seed), pool(n // 2, seed + 1), tuple("abcd"), 255),
        Source(pool(n + 60, seed), None, tuple("abcd"), 255),
    ):
        whole = split(source, parted(train, validation, seed), subsample=1.0)
        trial = split(source, parted(train, validation, seed), subsample=subsample)
        for name, part in trial.parts().items():
            full = whole.parts()[name]
            assert set(part.index.tolist()) <= set(full.index.tolist())
            assert len(part) == max(2, round(subsample * len(full)))
            counts, shares = (np.bincount(labels, minlength=4) for labels in (part.labels, full.labels))
            # stratified: each class keeps its share, give or take one and the rounding of the whole
            assert (np.abs(counts - subsample * shares) <= 2 + 4 * shares / shares.sum()).all()
        train_index, validation_index = set(trial.train.index.tolist()), set(trial.validation.index.tolist())
        assert not train_index & validation_index


@pytest.mark.parametrize("plan", [parted(), Published(name="svhn", validation_samples=20)], ids=["npz", "published"])
def test_the_official_test_part_is_the_test_set_with_indices_of_its_own(plan):
    source = Source(pool(100, 0), pool(50, 1), tuple("abcd"), 255)
    data = split(source, plan, subsample=1.0)
    assert data.test.index.tolist() == list(range(50))
    assert torch.equal(data.test.labels, source.test.labels)
    assert sorted(data.train.index.tolist() + data.validation.index.tolist()) == list(range(100))
    for samples in data.parts().values():
        assert samples.pixels.flatten().tolist() == samples.index.tolist()
        assert samples.index.tolist() == sorted(samples.index.tolist())


def test_the_class_names_stay_but_nothing_depends_on_them():
    data = split(Source(pool(100, 0), None, tuple("abcd"), 255), parted(60), subsample=1.0)
    other = split(Source(pool(100, 0), None, tuple("efgh"), 255), parted(60), subsample=1.0)
    assert data.to(torch.device("meta")).class_names == data.class_names == tuple("abcd")
    assert data.digest() == other.digest()


def part(n=5, channels=1, height=4, width=4, pixel_max=255):
    random = np.random.default_rng(n)
    pixels = torch.tensor(random.integers(0, pixel_max + 1, (n, channels, height, width)), dtype=torch.uint8)
    return Part(pixels, torch.arange(n) % 3, 10 + torch.arange(n), pixel_max)


@pytest.mark.parametrize("pixel_max", [16, 255])
@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), torch.tensor([4, 0, 0])])
def test_images_are_float32_in_0_1(pixel_max, rows):
    samples = part(pixel_max=pixel_max)
    images = samples.images(rows)
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images, samples.pixels.numpy()[rows].astype(np.float64) / pixel_max, rtol=1e-6)
    assert 0 <= images.min() <= images.max() <= 1


def test_the_brightest_pixel_of_digits_is_1(data):
    assert data.train.images().max() == 1
    assert data.train.images().min() == 0


def test_take_keeps_pixels_labels_and_indices_together():
    samples, rows = part(), torch.tensor([3, 0, 3])
    taken = samples.take(rows)
    assert len(taken) == 3
    assert taken.index.tolist() == [13, 10, 13]
    assert taken.labels.tolist() == [0, 0, 0]
    assert torch.equal(taken.images(), samples.images()[rows])


def test_all_tensors_move_to_the_device():
    device = torch.device("meta")  # a device that each machine has
    moved = set_of().to(device)
    assert moved.classes == 3
    for name, samples in moved.parts().items():
        assert {samples.pixels.device, samples.labels.device, samples.index.device} == {device}
        assert len(samples) == len(set_of().parts()[name])
        assert samples.pixel_max == 255


def apart(n=5):
    """Samples whose pixels stay on the CPU while another device computes."""
    return part(n).to(torch.device("meta"), with_pixels=False)


def test_pixels_that_take_more_than_half_of_the_free_memory_do_not_fit():
    assert fits(50, 100)
    assert not fits(51, 100)
    assert not fits(51, 101)
    assert fits(10**15, None)


def test_only_a_gpu_has_free_memory_to_ask_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (device.index or 7, 10**9))
    assert free_on_device(torch.device("cuda", 3)) == 3
    assert free_on_device(torch.device("cpu")) is None


# 5 + 3 + 4 images of 16 bytes
@pytest.mark.parametrize(("free", "where"), [(2 * 192, "meta"), (2 * 192 - 1, "cpu"), (None, "meta")])
def test_pixels_of_all_splits_move_where_they_fit_together(free, where, monkeypatch):
    monkeypatch.setattr("bat.data.dataset.free_on_device", lambda device: free)
    for name, samples in set_of().to(torch.device("meta")).parts().items():
        assert samples.pixels.device.type == where
        assert samples.labels.device.type == samples.index.device.type == "meta"
        if where == "cpu":
            assert torch.equal(samples.pixels, set_of().parts()[name].pixels)


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([4, 0])], ids=["slice", "rows"])
def test_images_follow_the_labels_from_pinned_memory(rows, monkeypatch):
    pinned, moved, to = [], [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda pixels: pinned.append(pixels.clone()) or pixels)
    samples = apart()
    monkeypatch.setattr(
        torch.Tensor, "to", lambda it, where, **options: moved.append((it, where, options)) or to(it, where, **options)
    )
    images = samples.images(rows)
    assert (images.device.type, images.dtype, images.shape) == ("meta", torch.float32, (2, 1, 4, 4))
    # only what is asked for, and still as bytes
    assert len(pinned) == 1
    assert torch.equal(pinned[0], part().pixels[rows])
    *before, (_, where, options) = moved
    assert (where.type, options) == ("meta", {"non_blocking": True})
    # rows that may be on the other device, where they cannot be taken from
    assert [(it is rows, where.type) for it, where, _ in before] == [(True, "cpu")] * isinstance(rows, torch.Tensor)


def test_images_that_lie_with_their_labels_are_not_pinned(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", None)
    assert part().images().device.type == "cpu"


def test_a_part_of_samples_lies_as_they_do():
    taken = apart().take(torch.tensor([3, 0]))
    assert (taken.pixels.device.type, taken.labels.device.type, taken.index.device.type) == ("cpu", "meta", "meta")
    assert torch.equal(taken.pixels, part().pixels[[3, 0]])


@pytest.mark.parametrize("model", [SizedModel(name="small_cnn", width=4), ResidualModel(name="resnet18")])
def test_a_network_is_built_where_the_labels_are(model):
    network = build(model, apart(), classes=3, seed=0)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([4, 0, 0])], ids=["slice", "rows"])
def test_images_from_host_memory_are_those_on_the_gpu(rows):
    device = torch.device("cuda", 0)
    rows = rows.to(device) if isinstance(rows, torch.Tensor) else rows
    assert torch.equal(part().to(device, with_pixels=False).images(rows), part().to(device).images(rows))


def set_of(**changes):
    parts = {name: part(n) for name, n in (("train", 5), ("validation", 3), ("test", 4))}
    return DataSet(**({**parts, "classes": 3} | changes))


def changed(samples, field, place, change=1):
    tensor = getattr(samples, field).clone()
    tensor.view(-1)[place] += change
    fields = {"pixels": samples.pixels, "labels": samples.labels, "index": samples.index}
    return Part(**(fields | {field: tensor}), pixel_max=samples.pixel_max)


@given(
    st.sampled_from(["train", "validation", "test"]),
    st.sampled_from(["pixels", "labels", "index"]),
    st.integers(0, 10**6),
    st.integers(1, 255),
)
def test_the_digest_changes_with_any_one_value(name, field, place, change):
    data = set_of()
    samples = data.parts()[name]
    place %= getattr(samples, field).numel()
    other = set_of(**{name: changed(samples, field, place, change)})
    assert other.digest() != data.digest()
    assert set_of().digest() == data.digest()


@pytest.mark.parametrize(
    "other",
    [
        {"classes": 4},
        {"train": part(5, pixel_max=254)},
        {"train": part(5, height=2, width=8)},
        {"train": part(3), "validation": part(5)},
    ],
    ids=["classes", "pixel_max", "shape", "order of splits"],
)
def test_the_digest_changes_with_what_is_not_in_the_bytes(other):
    assert set_of(**other).digest() != set_of().digest()


def test_the_digest_does_not_depend_on_the_layout_in_memory():
    samples = part(5)
    turned = Part(samples.pixels.transpose(2, 3).contiguous().transpose(2, 3), samples.labels, samples.index, 255)
    assert not turned.pixels.is_contiguous()
    assert set_of(train=turned).digest() == set_of(train=samples).digest()


IMAGES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))


def images(shape, seed=0):
    # no two pixels alike and none 0, so that a crop can be told from all others
    return torch.rand(shape, generator=generator("images", seed)) * 0.9 + 0.1


def crops(image, padding):
    """All crops of a padded image by (row, column), with plain loops."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), dtype=np.float32)
    padded[:, padding : padding + height, padding : padding + width] = image
    offsets = itertools.product(range(2 * padding + 1), repeat=2)
    return {(r, c): padded[:, r : r + height, c : c + width] for r, c in offsets}


@given(IMAGES, st.integers(0, 3), st.booleans(), st.integers(0, 2**40))
@settings(max_examples=60)
def test_each_augmented_image_is_a_crop_of_the_padded_image_or_its_mirror_image(shape, padding, flip, seed):
    x = images(shape, seed)
    augmented = augment(x, crop_padding=padding, flip=flip, random=generator(seed)).numpy()
    assert augmented.shape == shape
    assert augmented.dtype == np.float32
    for before, after in zip(x.numpy(), augmented, strict=True):
        allowed = list(crops(before, padding).values())
        allowed += [crop[..., ::-1] for crop in allowed] if flip else []
        assert any(np.array_equal(after, crop) for crop in allowed)


def test_crops_are_uniform_and_independent_of_the_other_samples():
    x = images((1, 1, 4, 4)).expand(5000, 1, 4, 4)
    augmented = augment(x, crop_padding=1, flip=False, random=generator(0)).numpy()
    places = {offset: (augmented == crop).all((1, 2, 3)).sum() for offset, crop in crops(x[0].numpy(), 1).items()}
    assert sum(places.values()) == 5000
    # 5000 / 9 = 556 a place, with a deviation of 22
    assert all(460 < count < 650 for count in places.values())


def test_half_of_the_images_are_mirrored():
    x = images((4000, 1, 2, 3))
    augmented = augment(x, crop_padding=0, flip=True, random=generator(1))
    mirrored = (augmented == x.flip(3)).all(3).all(2).all(1)
    same = (augmented == x).all(3).all(2).all(1)
    assert (mirrored ^ same).all()
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.03)


def test_no_augmentation_changes_nothing_and_draws_nothing():
    x, random = images((3, 2, 4, 5)), generator(0)
    assert torch.equal(augment(x, crop_padding=0, flip=False, random=random), x)
    assert torch.equal(random.get_state(), generator(0).get_state())


@pytest.mark.parametrize(("padding", "flip"), [(2, False), (0, True), (2, True)])
def test_augmentation_depends_on_its_generator_alone(padding, flip):
    x, before = images((8, 1, 5, 5)), torch.get_rng_state()
    kept = x.clone()
    first, again, other = (augment(x, crop_padding=padding, flip=flip, random=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), before)
