"""Published data sets, from small archives of the true formats that this machine serves, with sums of their own."""

import gc
import gzip
import hashlib
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from refusals import refusal
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from bat.cli import main
from bat.config import Cached, Published
from bat.data import downloading, tiny_imagenet
from bat.data import published as source_module
from bat.data.dataset import load_source
from bat.data.decoding import read_images
from bat.data.saved import read_data
from bat.data.sources import open_source


def published(name, cache, train="all", validation=4):
    return Published(name=name, cache=str(cache), train_samples=train, validation_samples=validation, split_seed=0)


def cached(name, cache):
    return Cached(name=name, cache=str(cache))


def md5(content):
    return hashlib.md5(content).hexdigest()


def numbers(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Archives:
    """What a server holds, and what the data set in it is."""

    def __init__(self, folder, url):
        self.folder, self.url = folder, url
        self.expected = {}  # (images (n, c, h, w), labels) by part

    def put(self, name, content):
        (self.folder / name).write_bytes(content)
        return md5(content)


def mnist(server, patch, kind=MNIST):
    resources, sums = [], {}
    for part, name, n in (("train", "train", 40), ("test", "t10k", 20)):
        images, labels = numbers(n, n, 28, 28), (np.arange(n) * 7 % 10).astype(np.uint8)
        server.expected[part] = images[:, None], labels
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            # magic number (unsigned bytes, dimensions), sizes, then the bytes, big-endian
            header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            file = f"{name}-{what}-ubyte.gz"
            resources.append((file, server.put(file, gzip.compress(header + array.tobytes()))))
            sums[file.removesuffix(".gz")] = md5(header + array.tobytes())
    patch.setattr(kind, "mirrors", [server.url])
    patch.setattr(kind, "resources", resources)
    if kind is MNIST:
        patch.setitem(source_module._RAW_MD5, "mnist", sums)
    else:
        patch.setattr(source_module, "_FASHION", {"train": 40, "t10k": 20})


def fashion_mnist(server, patch):
    mnist(server, patch, FashionMNIST)


def svhn(server, patch):
    files = {}
    for part, n in (("train", 40), ("test", 20)):
        images, labels = numbers(n, n, 3, 32, 32), np.arange(n) * 3 % 10
        server.expected[part] = images, labels
        content = io.BytesIO()
        # the class 10 is the digit 0
        savemat(
            content, {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype("u1")}
        )
        files[part] = [
            f"{server.url}{part}_32x32.mat",
            f"{part}_32x32.mat",
            server.put(part + "_32x32.mat", content.getvalue()),
        ]
    patch.setattr(SVHN, "split_list", files)


def old_pickle(value):
    """Pickle as numpy of Python 2 did: dtype('u1', 0, 1) where numpy now writes dtype('u1', False, True)."""
    content = pickle.dumps(value, protocol=2)
    assert content.count(b"\x89\x88\x87") == 1
    return content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def cifar(server, patch, kind, classes, key, batches):
    folder, sums, members = kind.base_folder, {}, {}
    for part, names in batches.items():
        images, labels = [], []
        for number, name in enumerate(names):
            x, y = numbers(number + len(names), 24, 3, 32, 32), (np.arange(24) * 5 + number) % classes
            members[name] = old_pickle({"data": x.reshape(24, 3072), key: y.tolist(), "filenames": ["a.png"] * 24})
            images.append(x)
            labels.append(y)
        server.expected[part] = np.concatenate(images), np.concatenate(labels)
        sums[part] = [[name, md5(members[name])] for name in names]
    meta = dict(kind.meta)
    members[meta["filename"]] = pickle.dumps({meta["key"]: [f"class {i}" for i in range(classes)]}, protocol=2)
    meta["md5"] = md5(members[meta["filename"]])
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    patch.setattr(kind, "tgz_md5", server.put(kind.filename, content.getvalue()))
    patch.setattr(kind, "url", server.url + kind.filename)
    patch.setattr(kind, "train_list", sums["train"])
    patch.setattr(kind, "test_list", sums["test"])
    patch.setattr(kind, "meta", meta)


def cifar10(server, patch):
    batches = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    cifar(server, patch, CIFAR10, 10, "labels", batches)


def cifar100(server, patch):
    cifar(server, patch, CIFAR100, 4, "fine_labels", {"train": ["train"], "test": ["test"]})


WORDNET = ["n01443537", "n01629819", "n02480855"]


def tiny_image(seed, grey=False):
    """Return a JPEG, and the pixels that Pillow decodes from it (all images are JPEGs, some of them grey)."""
    content = io.BytesIO()
    pixels = numbers(seed, 64, 64) if grey else numbers(seed, 64, 64, 3)
    Image.fromarray(pixels).save(content, "JPEG")
    decoded = np.asarray(Image.open(content))
    return content.getvalue(), np.stack([decoded] * 3) if grey else decoded.transpose(2, 0, 1)


def tiny(server, patch):
    files, top = {}, "tiny-imagenet-200"
    files["wnids.txt"] = "\n".join(reversed(WORDNET))
    files["words.txt"] = (
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn01629819\tEuropean fire salamander\n"
    )
    train = {}
    for kind in WORDNET:
        files[f"train/{kind}/{kind}_boxes.txt"] = f"{kind}_0.JPEG\t0\t10\t63\t58\n"
        for number in range(12):
            name = f"{kind}_{number}.JPEG"
            files[f"train/{kind}/images/{name}"], train[kind, name] = tiny_image(hash_of(name), grey=number == 5)
    test, lines = {}, []
    for number in range(9):
        kind, name = WORDNET[number * 2 % 3], f"val_{number}.JPEG"
        files[f"val/images/{name}"], test[kind, name] = tiny_image(hash_of(name))
        lines.append(f"{name}\t{kind}\t0\t32\t44\t62")
    files["val/val_annotations.txt"] = "\n".join(lines) + "\n"
    files["test/images/test_0.JPEG"] = tiny_image(0)[0]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        names = list(files)
        random.Random(0).shuffle(names)
        for name in names:
            archive.writestr(f"{top}/{name}", files[name])
    for part, images in (("train", train), ("test", test)):
        order = sorted(images)
        labels = np.array([WORDNET.index(kind) for kind, _ in order])
        server.expected[part] = np.stack([images[key] for key in order]), labels
    patch.setattr(tiny_imagenet, "MD5", server.put("tiny-imagenet-200.zip", content.getvalue()))
    patch.setattr(tiny_imagenet, "URL", f"{server.url}tiny-imagenet-200.zip")


def hash_of(name):
    return int(md5(name.encode())[:8], 16)


SETS = {
    "mnist": (mnist, "0123456789"),
    "fashion_mnist": (fashion_mnist, FashionMNIST.classes),
    "svhn": (svhn, "0123456789"),
    "cifar10": (cifar10, [f"class {i}" for i in range(10)]),
    "cifar100": (cifar100, [f"class {i}" for i in range(4)]),
    "tiny_imagenet": (tiny, ["goldfish", "European fire salamander", "n02480855"]),
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def archives(tmp_path, monkeypatch):
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        server.handle_error = lambda *_: None  # torchvision hangs up after it has asked for redirections
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Archives(folder, f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()


@pytest.fixture(params=SETS)
def source(request, archives, monkeypatch):
    """Return a data set's name, and the server that holds it."""
    SETS[request.param][0](archives, monkeypatch)
    return request.param, archives


def test_each_sample_is_that_of_its_index_in_the_published_files(source, tmp_path):
    name, server = source
    downloading.fetch(cached(name, tmp_path / "cache"))
    data = load_source(published(name, tmp_path / "cache", validation=14), subsample=1.0)
    assert data.class_names == tuple(SETS[name][1])
    assert data.classes == len(data.class_names)
    images, labels = server.expected["train"]
    assert (len(data.train), len(data.validation)) == (len(labels) - 14, 14)
    everything = torch.cat([data.train.index, data.validation.index])
    assert everything.sort().values.tolist() == list(range(len(labels)))
    assert data.test.index.tolist() == list(range(len(server.expected["test"][1])))
    for part in data.parts().values():
        images, labels = server.expected["test" if part is data.test else "train"]
        np.testing.assert_array_equal(part.pixels, images[part.index])
        np.testing.assert_array_equal(part.labels, labels[part.index])
        assert part.pixels.is_contiguous()
        assert (part.pixels.dtype, part.labels.dtype, part.pixel_max) == (torch.uint8, torch.int64, 255)


def test_a_whole_copy_is_not_downloaded_again(source, tmp_path, monkeypatch):
    name, server = source
    cache = tmp_path / "cache"
    downloading.fetch(cached(name, cache))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    for path in server.folder.iterdir():
        path.unlink()
    monkeypatch.setattr(downloading, "_fetch", None)
    downloading.fetch(cached(name, cache))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_without_a_copy_one_line_names_the_cache_and_the_stage(source, tmp_path):
    name, _ = source
    message = refusal(load_with(name, tmp_path / "cache"))
    assert str(tmp_path / "cache") in message
    assert "run stage download" in message


def load_with(name, cache):
    return lambda: load_source(published(name, cache), subsample=1.0)


def used(cache):
    """Return the files of a cache that hold data, without the archives that they came in."""
    archives = (".gz", ".txt")
    return sorted(path for path in cache.rglob("*") if path.is_file() and path.suffix not in archives)


def test_a_cut_file_is_refused_and_another_download_mends_it(source, tmp_path):
    name, _ = source
    cache = tmp_path / "cache"
    downloading.fetch(cached(name, cache))
    whole = load_source(published(name, cache), subsample=1.0).digest()
    for path in used(cache):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - 3])
        assert "run stage download" in refusal(load_with(name, cache))
        downloading.fetch(cached(name, cache))
        assert path.read_bytes() == content
        path.unlink()
        assert "run stage download" in refusal(load_with(name, cache))
        downloading.fetch(cached(name, cache))
    assert load_source(published(name, cache), subsample=1.0).digest() == whole


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_flipped_bit_is_refused_and_another_download_mends_it(source, place, tmp_path):
    name, _ = source
    cache = tmp_path / "cache"
    downloading.fetch(cached(name, cache))
    for path in used(cache):
        content = path.read_bytes()
        flip(path, int(place * (len(content) - 1)))
        assert "run stage download" in refusal(load_with(name, cache))
        downloading.fetch(cached(name, cache))
        assert path.read_bytes() == content


def flip(path, byte, bit=0):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture(params=["mnist", "fashion_mnist"])
def raw(request, archives, monkeypatch, tmp_path):
    """Return the name of MNIST or Fashion-MNIST, the cache with a whole copy of it, and its unpacked files."""
    SETS[request.param][0](archives, monkeypatch)
    downloading.fetch(cached(request.param, tmp_path / "cache"))
    return request.param, tmp_path / "cache", used(tmp_path / "cache")


def without(cache, pattern):
    for path in list(cache.rglob(pattern)):
        path.unlink()


@pytest.mark.parametrize("byte", [20, -1])
def test_unpacked_files_are_compared_without_their_archives_too(raw, byte):
    name, cache, files = raw
    without(cache, "*.gz")
    load_with(name, cache)()
    for path in files:
        content = path.read_bytes()
        flip(path, byte)
        assert refusal(load_with(name, cache)) == (
            f"{cache}: no whole copy of {name} ({path.name} has MD5 {md5(path.read_bytes())}, not {md5(content)}): run "
            "stage download"
        )
        path.write_bytes(content)


def test_the_sums_that_a_download_left_are_md5sums(archives, monkeypatch, tmp_path):
    fashion_mnist(archives, monkeypatch)
    downloading.fetch(cached("fashion_mnist", tmp_path))
    [receipt] = tmp_path.rglob("md5sums.txt")
    expected = [f"{md5(path.read_bytes())}  {path.name}" for path in used(tmp_path)]
    assert sorted(receipt.read_text().splitlines()) == sorted(expected)
    for content in ("", "x", receipt.read_text()[1:], receipt.read_text().splitlines()[0]):
        receipt.write_text(content)
        assert "run stage download" in refusal(load_with("fashion_mnist", tmp_path))


@pytest.mark.parametrize("byte", [20, -1])
def test_unpacked_files_without_sums_are_compared_with_their_archives(archives, byte, monkeypatch, tmp_path):
    fashion_mnist(archives, monkeypatch)
    downloading.fetch(cached("fashion_mnist", tmp_path))
    without(tmp_path, "md5sums.txt")
    load_with("fashion_mnist", tmp_path)()
    for path in used(tmp_path):
        content = path.read_bytes()
        flip(path, byte)
        assert f"{path.name} has MD5" in refusal(load_with("fashion_mnist", tmp_path))
        path.write_bytes(content)
        archive = path.with_name(f"{path.name}.gz")
        whole = archive.read_bytes()
        flip(archive, byte)
        assert f" ({archive.name} has another MD5 than {md5(whole)}): " in refusal(load_with("fashion_mnist", tmp_path))
        archive.write_bytes(whole)


def idx(*arrays):
    for array in arrays:
        header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        yield header + array.tobytes()


IMAGES, LABELS = numbers(0, 40, 28, 28), (np.arange(40) % 10).astype(np.uint8)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES[:39], LABELS),
        (IMAGES[:30], LABELS[:30]),
        (numbers(0, 40, 28, 27), LABELS),
        (IMAGES, LABELS // 2),  # no image of some classes
        (IMAGES, np.where(np.arange(40) == 7, 200, LABELS).astype(np.uint8)),
        (IMAGES, np.where(np.arange(40) == 7, 8, LABELS).astype(np.uint8)),
        (IMAGES[:, 0], LABELS),
    ],
)
def test_fashion_mnist_without_any_sum_must_have_its_sizes(archives, images, labels, monkeypatch, tmp_path):
    fashion_mnist(archives, monkeypatch)
    downloading.fetch(cached("fashion_mnist", tmp_path))
    without(tmp_path, "*.gz")
    without(tmp_path, "md5sums.txt")
    load_with("fashion_mnist", tmp_path)()
    raw = tmp_path / "FashionMNIST" / "raw"
    contents = dict(zip(("images-idx3", "labels-idx1"), idx(images, labels), strict=True))
    for what, content in contents.items():
        (raw / f"train-{what}-ubyte").write_bytes(content)
    line = refusal(load_with("fashion_mnist", tmp_path))
    assert "run stage download" in line
    if images.ndim == 3:
        counts = np.bincount(labels, minlength=10).tolist()
        assert (
            f" (train: images {images.shape} and labels {counts}, where (40, 28, 28) and 4 of each class are published"
            in line.replace("labels [8, 8, 8, 8, 8]", "labels [8, 8, 8, 8, 8, 0, 0, 0, 0, 0]")
        )


def test_older_files_of_torchvision_are_not_taken(raw, archives):
    name, cache, files = raw
    [folder] = [path.parent.parent for path in files[:1]]
    (folder / "processed").mkdir()
    for part in ("training", "test"):
        torch.save((torch.zeros(40, 28, 28, dtype=torch.uint8), torch.zeros(40)), folder / "processed" / f"{part}.pt")
    data = load_source(published(name, cache), subsample=1.0)
    np.testing.assert_array_equal(data.train.pixels, archives.expected["train"][0][data.train.index])
    # nor do they hinder a download
    files[0].unlink()
    assert "run stage download" in refusal(load_with(name, cache))
    downloading.fetch(cached(name, cache))
    assert load_source(published(name, cache), subsample=1.0).digest() == data.digest()


def test_a_download_with_another_checksum_is_refused(source, tmp_path):
    name, server = source
    for path in server.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    line = refusal(downloading.fetch, cached(name, tmp_path / "cache"))
    start = f"{tmp_path / 'cache'}: {name} cannot be downloaded ("
    end = "File not found or corrupted.): try again, or put its files there by hand"
    assert line.startswith(start)
    assert line.endswith(end)
    assert "mnist" in name or line == start + end  # of MNIST torchvision names the servers that it tried
    assert "run stage download" in refusal(load_with(name, tmp_path / "cache"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_without_the_file_is_one_line(source, tmp_path):
    name, server = source
    for path in server.folder.iterdir():
        path.unlink()
    assert "put its files there by hand" in refusal(downloading.fetch, cached(name, tmp_path / "cache"))
    gc.collect()  # torchvision leaves the socket of a refusal open


def test_stages_download_and_data_in_turn(source, tmp_path):
    name, server = source
    at = {"receipt": "receipt.json", "data": "data.safetensors", "files": "files.parquet"}
    at = {name: str(tmp_path / file) for name, file in at.items()}
    where = {"name": name, "cache": str(tmp_path / "cache")}
    main(["download", "--spec", json.dumps(where), "--receipt", at["receipt"]])
    assert json.loads(Path(at["receipt"]).read_text())["name"] == name
    spec = {"data": where | {"train_samples": "all", "validation_samples": 4, "split_seed": 0}, "subsample": 0.8}
    main(["data", "--spec", json.dumps(spec), "--data", at["data"], "--files", at["files"]])
    data, samples = read_data(at["data"]), pd.read_parquet(at["files"])
    assert data.class_names == tuple(SETS[name][1])
    assert len(data.train) == round(0.8 * (len(server.expected["train"][1]) - 4))
    assert samples["class_name"].tolist() == [data.class_names[label] for label in samples["label"]]
    assert samples["file"].isna().all() == (name != "tiny_imagenet")


def test_the_zip_is_read_the_same_by_any_number_of_threads(archives, monkeypatch):
    asked = []

    def watched(*what, threads):
        asked.append(threads)
        return read_images(*what, threads=threads)

    monkeypatch.setattr(tiny_imagenet, "read_images", watched)
    tiny(archives, monkeypatch)
    source = open_source(published("tiny_imagenet", archives.folder), threads=5)
    images, _ = archives.expected["train"]
    rows = torch.arange(len(images)).flip(0)
    np.testing.assert_array_equal(source.train.pixels(rows), images[::-1])
    assert source.test.pixels(torch.tensor([0])).shape == (1, 3, 64, 64)
    assert asked == [5, 5]
    assert source.train.files[0] == "tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG"
    assert [Path(name).name for name in source.test.files][:2] == ["val_0.JPEG", "val_3.JPEG"]


def test_the_published_checksums_are_those_of_torchvision_and_of_the_zip():
    # the sum that public code gives for Tiny ImageNet
    assert tiny_imagenet.MD5 == "90528d7ca1a48142e341f4ef8d21d0de"
    assert CIFAR10.tgz_md5 == "c58f30108f718f92721af3b95e74349a"
    assert MNIST.resources[0] == ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873")
    assert source_module._RAW_MD5["mnist"].keys() == {name.removesuffix(".gz") for name, _ in MNIST.resources}
