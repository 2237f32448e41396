"""The data set on disk, and the device that it is read to."""

from pathlib import Path

import pytest
import torch
from refusals import refusal

from bat.data.dataset import DataSet, Part
from bat.data.saved import device_named, load_data, read_data, tensor, write_data
from bat.io.files import provenance


def part(n: int, seed: int) -> Part:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 17, (n, 2, 3, 4), generator=random, dtype=torch.uint8)
    return Part(pixels, torch.arange(n) % 3, torch.arange(n) + 100 * seed, pixel_max=16)


DATA = DataSet(part(5, 1), part(3, 2), part(4, 3), classes=3, class_names=("ant", "bee", "cat"))


def assert_equal(found: DataSet, expected: DataSet) -> None:
    assert (found.classes, found.class_names) == (expected.classes, expected.class_names)
    for name, of in expected.parts().items():
        one = found.parts()[name]
        assert one.pixel_max == of.pixel_max
        for field in ("pixels", "labels", "index"):
            assert torch.equal(getattr(one, field), getattr(of, field))
            assert getattr(one, field).dtype == getattr(of, field).dtype


def test_a_data_set_comes_back_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "a", DATA, provenance("data", spec={"x": 1}))
    assert_equal(read_data(tmp_path / "a"), DATA)
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found, digest = load_data(tmp_path / "a", "cpu")
    assert_equal(found, DATA)
    assert digest == DATA.digest()
    assert threads == [3]


def test_without_names_a_class_is_named_by_its_number(tmp_path: Path) -> None:
    write_data(tmp_path / "a", DataSet(*DATA.parts().values(), classes=3), provenance("data"))
    assert read_data(tmp_path / "a").class_names == ("0", "1", "2")


def test_a_file_of_another_kind_is_no_data_set(tmp_path: Path) -> None:
    write_data(tmp_path / "a", DATA, provenance("images"))
    assert refusal(read_data, tmp_path / "a") == f"{tmp_path / 'a'}: holds images, not data: give another file"


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (1, "auto", "cuda"),
        (1, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (200, "cuda:123", "cuda:123"),
    ],
)
def test_a_device_by_its_name(gpus: int, name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    assert device_named(name) == torch.device(device)
    # on a GPU float32 is not rounded, and equal runs are equal
    on_gpu = device != "cpu"
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == (not on_gpu, on_gpu)


@pytest.mark.parametrize(("gpus", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:2"), (2, "cuda:10")])
def test_a_device_that_is_not_there_is_refused(gpus: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    # torch counts GPUs that it cannot use
    monkeypatch.setattr(torch.cuda, "device_count", lambda: max(gpus, 1))
    assert refusal(device_named, name) == (
        f"--device {name}: this machine has {gpus} GPUs that torch can use: give another, or cpu"
    )


@pytest.mark.parametrize("name", ["", "gpu", "mps", "cuda:", "cuda:-1", "cuda:1234", "CPU", "cpu "])
def test_what_is_no_device_is_refused(name: str) -> None:
    assert refusal(device_named, name) == f"--device {name}: no such device: give auto, cpu, cuda or cuda:1, ..."


def test_an_array_becomes_a_tensor_on_the_device_of_the_data() -> None:
    meta = DataSet(*(one.to(torch.device("meta")) for one in DATA.parts().values()), classes=3)
    assert tensor([1, 2], meta).device.type == "meta"
    assert tensor([1, 2], DATA).tolist() == [1, 2]
