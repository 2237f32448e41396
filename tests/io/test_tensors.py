import dataclasses
import itertools
import os
import re
from pathlib import Path

import pytest
import torch
from refusals import flip, refusal
from safetensors import SafetensorError
from safetensors.torch import save_file

import bat
from bat.data.dataset import DataSet, Part
from bat.data.saved import read_data, write_data
from bat.io import files, tensors
from bat.io.files import KEY, provenance
from bat.io.tensors import kept, read_tensors, write_tensors

TENSORS = {"weights": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7), "mask": torch.tensor([True, False])}


def data_set():
    random = torch.Generator().manual_seed(0)
    parts = [
        Part(
            torch.randint(17, (n, 2, 3, 4), dtype=torch.uint8, generator=random),
            torch.randint(5, (n,), generator=random),
            torch.arange(n) * 2,
            16,
        )
        for n in (6, 2, 3)
    ]
    return DataSet(*parts, classes=5, class_names=("a", "b", "c", "é", "日本"))


def test_tensors_come_back_with_values_types_and_provenance(tmp_path):
    spec = {"seed": 3, "model": {"name": "mlp", "width": 2}, "text": "é"}
    write_tensors(tmp_path / "a", TENSORS, provenance("model", spec=spec))
    tensors, facts = read_tensors(tmp_path / "a", "model")
    assert facts == {"kind": "model", "version": bat.__version__, "spec": spec}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_tensors_of_any_layout_and_with_gradients_can_be_written(tmp_path):
    turned = TENSORS["weights"].clone().requires_grad_().T
    write_tensors(tmp_path / "a", {"turned": turned, "sliced": torch.arange(10)[::3]}, provenance("test"))
    tensors, _ = read_tensors(tmp_path / "a", "test")
    assert torch.equal(tensors["turned"], turned)
    assert tensors["sliced"].tolist() == [0, 3, 6, 9]


def test_a_data_set_comes_back_whole(tmp_path):
    data = data_set()
    write_data(tmp_path / "a", data, provenance("data"))
    again = read_data(tmp_path / "a")
    assert again.digest() == data.digest()
    assert again.classes == 5
    assert again.class_names == data.class_names
    for name, part in data.parts().items():
        other = again.parts()[name]
        assert other.pixel_max == 16
        for field in ("pixels", "labels", "index"):
            assert torch.equal(getattr(other, field), getattr(part, field))
            assert getattr(other, field).dtype == getattr(part, field).dtype


def test_classes_without_names_are_named_by_their_numbers(tmp_path):
    write_data(tmp_path / "a", dataclasses.replace(data_set(), class_names=()), provenance("data"))
    assert read_data(tmp_path / "a").class_names == ("0", "1", "2", "3", "4")


def anonymous():
    """Return the memory of this process that is no file's, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no memory")
def test_a_data_set_is_mapped_into_memory_and_not_copied(tmp_path):
    size = 64 * 2**20
    pixels = torch.full((size // 1024, 1, 32, 32), 7, dtype=torch.uint8)
    large, *small = (Part(pixels[:n].clone(), torch.arange(n), torch.arange(n), 255) for n in (len(pixels), 2, 3))
    data = DataSet(large, *small, classes=2)
    expected = data.digest()
    write_data(tmp_path / "a", data, provenance("data"))
    del data, large, pixels
    before = anonymous()
    again = read_data(tmp_path / "a")
    assert again.digest() == expected
    assert anonymous() - before < size / 4


def test_writing_again_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_data(tmp_path / name, data_set(), provenance("data", spec={"x": 1}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_file_is_refused(tmp_path):
    path = tmp_path / "none"
    assert refusal(read_tensors, path, "model") == f"{path}: no such file: run the stage that writes it"


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "cut"
    write_tensors(path, TENSORS, provenance("model"))
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        assert refusal(read_tensors, path, "model").startswith(f"{path}: damaged")


def test_each_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "flipped"
    write_tensors(path, TENSORS, provenance("model", spec={"seed": 1}))
    for byte, bit in itertools.product(range(path.stat().st_size), range(8)):
        flip(path, byte, bit)
        assert refusal(read_tensors, path, "model").startswith(f"{path}: ")
        flip(path, byte, bit)
    read_tensors(path, "model")


def test_a_file_of_another_version_or_without_checksum_is_refused(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "a", metadata={KEY: provenance("model")})
    assert "has no checksum" in refusal(read_tensors, tmp_path / "a", "model")
    monkeypatch.setattr(files, "__version__", "0.0.1")
    write_tensors(tmp_path / "a", TENSORS, provenance("model"))
    monkeypatch.undo()
    expected = f"written by version 0.0.1 of bat, and this is {bat.__version__}: remove it and run its stage again"
    assert refusal(read_tensors, tmp_path / "a", "model") == f"{tmp_path / 'a'}: {expected}"


def test_kept_tensors_are_made_anew_unless_they_are_of_the_same(tmp_path, monkeypatch):
    path, made, told = tmp_path / "a", [], []

    def make():
        made.append(1)
        return TENSORS

    def take(about):
        tensors = kept(path, about, make, told.append)
        assert torch.equal(tensors["weights"], TENSORS["weights"])
        return len(made), len(told)

    about = provenance("part", spec={"seed": 1}, data="d", weights="w", format=1)
    assert take(about) == (1, 0)
    assert take(about) == (1, 0)
    content = path.read_bytes()
    changes = {"spec": {"seed": 2}}, {"data": "e"}, {"weights": "v"}, {"more": 1}, {"spec": {"seed": 1, "x": 0}}
    for count, changed in enumerate(changes, start=1):
        facts = {"spec": {"seed": 1}, "data": "d", "weights": "w", "format": 1} | changed
        path.write_bytes(content)
        assert take(provenance("part", **facts)) == (1 + count, count)
        assert told[-1] == f"{path}: of another spec, or from other inputs: made anew"
    path.write_bytes(content)
    assert take(provenance("part", spec={"seed": 1}, data="d", weights="w", format=2)) == (len(made), len(told))
    assert len(made) == len(told) + 1 == len(changes) + 2
    assert told[-1] == f"{path}: of another format: made anew"
    path.write_bytes(content)
    made.clear()
    told.clear()
    for byte in range(0, len(content), 7):
        path.write_bytes(content[:byte] + bytes([content[byte] ^ 4]) + content[byte + 1 :])
        take(about)
        assert told[-1] == f"{path}: damaged, or of another version: made anew"
        assert path.read_bytes() == content
    assert len(made) == len(told)
    monkeypatch.setattr(files, "__version__", "0.0.1")
    assert take(provenance("part", spec={"seed": 1}, data="d", weights="w", format=1)) == (len(told), len(told))


@pytest.mark.parametrize("content", [b"text", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04" * 10, b"\x80\x04" * 40])
def test_a_file_of_another_format_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    line = refusal(read_tensors, tmp_path / "a", "model")
    assert line.startswith(f"{tmp_path / 'a'}: damaged, or no safetensors file (Error while deserializing header: ")
    assert line.endswith("): remove it and run its stage again")


def test_a_folder_is_refused(tmp_path):
    refusal(read_tensors, tmp_path, "model")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_tensors_of_another_program_are_refused(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "a", metadata=metadata)
    message = refusal(read_tensors, tmp_path / "a", "model")
    assert message == f"{tmp_path / 'a'}: holds nothing of this package, not model: give another file"


@pytest.mark.parametrize("about", ["{", "text", "[]", "7", '"model"'])
def test_a_file_with_damaged_provenance_is_refused(tmp_path, about):
    save_file(TENSORS, tmp_path / "a", metadata={KEY: about})
    assert refusal(read_tensors, tmp_path / "a", "model").startswith(f"{tmp_path / 'a'}: ")


def test_a_file_of_another_kind_is_refused_and_both_kinds_named(tmp_path):
    write_tensors(tmp_path / "a", TENSORS, provenance("model"))
    assert "holds model, not data" in refusal(read_data, tmp_path / "a")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")], ids=repr
)
def test_a_writer_that_breaks_leaves_the_old_tensors(tmp_path, monkeypatch, error):
    path = tmp_path / "a"
    write_tensors(path, TENSORS, provenance("model"))
    before = path.read_bytes()

    def breaks(tensors, temporary, metadata):
        temporary.write_bytes(before[:20])
        raise error

    monkeypatch.setattr(tensors, "save_file", breaks)
    assert "No space left" in refusal(write_tensors, path, TENSORS, provenance("other"))
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
