import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import bat
from bat import files
from bat.data import DataSet, Part
from bat.errors import BatError
from bat.files import provenance, read_data, read_tensors, replacing, write_data, write_tensors

TENSORS = {"weights": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7), "mask": torch.tensor([True, False])}


def refusal(act, *arguments):
    with pytest.raises(BatError) as caught:
        act(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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
    return DataSet(*parts, classes=5)


def write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("hal")
        raise RuntimeError("stopped")


def write_until_full(path):
    with replacing(path) as temporary:
        temporary.write_text("hal")
        raise OSError(28, "No space left on device")


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename is atomic within one file system alone
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(("write", "error"), [(write_half, RuntimeError), (write_until_full, BatError)])
def test_a_write_that_fails_leaves_what_was_there_and_no_temporary_file(tmp_path, write, error, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error):
        write(path)
    assert names(tmp_path) == (["a.txt"] if old else [])
    if old:
        assert path.read_text() == old


def test_a_full_disk_is_told_in_one_line_that_names_the_file(tmp_path):
    message = refusal(write_until_full, tmp_path / "a.txt")
    assert message.startswith(f"{tmp_path / 'a.txt'}: ")
    assert "No space left on device" in message


def test_an_old_file_is_replaced(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text(text)
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, sys\nfrom bat.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n    temporary.write_text('hal')\n    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_text() == "old"
    # its temporary file stays, and hinders no later writer
    write_tensors(path, TENSORS, provenance("test"))
    assert read_tensors(path, "test")[0].keys() == TENSORS.keys()


def a_folder_of_this_name(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def a_file_as_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "out"


def a_folder_in_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    return tmp_path / "file" / "folder" / "out"


def a_name_too_long(tmp_path):
    return tmp_path / ("x" * 400)


def a_folder_without_the_right(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    return tmp_path / "out"


@pytest.mark.parametrize(
    "place",
    [a_folder_of_this_name, a_file_as_folder, a_folder_in_a_file, a_name_too_long, a_folder_without_the_right],
)
def test_a_place_that_cannot_be_written_is_refused_in_one_line(tmp_path, place):
    path = place(tmp_path)
    assert refusal(write_tensors, path, TENSORS, provenance("test")).startswith(f"{path}: cannot be written")
    tmp_path.chmod(0o700)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


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
    for name, part in data.parts().items():
        other = again.parts()[name]
        assert other.pixel_max == 16
        for field in ("pixels", "labels", "index"):
            assert torch.equal(getattr(other, field), getattr(part, field))
            assert getattr(other, field).dtype == getattr(part, field).dtype


def test_writing_again_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_data(tmp_path / name, data_set(), provenance("data", spec={"x": 1}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_provenance_does_not_depend_on_the_order_of_facts():
    assert provenance("a", x=1, y={"p": 1, "q": 2}) == provenance("a", y={"q": 2, "p": 1}, x=1)
    assert json.loads(provenance("a", x=1)) == {"kind": "a", "version": bat.__version__, "x": 1}


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(read_tensors, tmp_path / "none", "model").startswith(f"{tmp_path / 'none'}: no such file")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    write_tensors(tmp_path / "whole", TENSORS, provenance("model"))
    content = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert refusal(read_tensors, path, "model").startswith(f"{path}: damaged, or no safetensors file")


@pytest.mark.parametrize("content", [b"text", b"\0" * 100, b"\xff" * 100, b"PK\x03\x04" * 10, b"\x80\x04" * 40])
def test_a_file_of_another_format_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert "damaged, or no safetensors file" in refusal(read_tensors, tmp_path / "a", "model")


def test_a_folder_is_refused(tmp_path):
    refusal(read_tensors, tmp_path, "model")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_tensors_of_another_program_are_refused(tmp_path, metadata):
    save_file(TENSORS, tmp_path / "a", metadata=metadata)
    message = refusal(read_tensors, tmp_path / "a", "model")
    assert "nothing of this package" in message
    assert "not model" in message


@pytest.mark.parametrize("about", ["{", "text", "[]", "7", '"model"'])
def test_a_file_with_damaged_provenance_is_refused(tmp_path, about):
    save_file(TENSORS, tmp_path / "a", metadata={files.KEY: about})
    assert refusal(read_tensors, tmp_path / "a", "model").startswith(f"{tmp_path / 'a'}: ")


def test_a_file_of_another_kind_is_refused_and_both_kinds_named(tmp_path):
    write_tensors(tmp_path / "a", TENSORS, provenance("model"))
    assert "holds model, not data" in refusal(read_data, tmp_path / "a")


def test_a_writer_that_breaks_leaves_the_old_tensors(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_tensors(path, TENSORS, provenance("model"))
    before = path.read_bytes()

    def breaks(tensors, temporary, metadata):
        temporary.write_bytes(before[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", breaks)
    assert "No space left" in refusal(write_tensors, path, TENSORS, provenance("other"))
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a"]
