"""Trained networks are read as they were written, and refused where they are of something else."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from refusals import refusal

from bat.config import SizedModel
from bat.data.dataset import DataSet, Part
from bat.io.files import provenance
from bat.io.tensors import write_tensors
from bat.models import build
from bat.models.saved import check_one_training, read_model

PLAN = SizedModel(name="mlp", width=3)


def part(n: int, channels: int = 1) -> Part:
    pixels = torch.arange(n * channels * 16).view(n, channels, 4, 4) % 17
    return Part(pixels.to(torch.uint8), torch.arange(n) % 3, torch.arange(n), pixel_max=16)


def samples(channels: int = 1) -> DataSet:
    return DataSet(part(6, channels), part(3, channels), part(3, channels), classes=3)


def written(path: Path, **changed: Any) -> dict[str, Any]:
    facts = {"data": "d", "spec": {"model": asdict(PLAN)}} | changed
    write_tensors(path, build(PLAN, part(6), classes=3, seed=7).state_dict(), provenance("model", **facts))
    return facts


def test_a_trained_network_is_read_with_its_provenance_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    facts = written(path, epoch=4)
    found, about = read_model(path, PLAN, samples(), (tmp_path / "data", "d"))
    expected = build(PLAN, part(6), classes=3, seed=7).state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    assert not found.training
    assert {name: about[name] for name in facts} == facts
    assert about["digest"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_of_other_data_or_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written(path)
    other = replace(PLAN, width=4)
    assert refusal(read_model, path, PLAN, samples(), (tmp_path / "data", "e")) == (
        f"{path}: trained on other data than {tmp_path / 'data'}: remove it and run stage train again"
    )
    assert refusal(read_model, path, other, samples(), (tmp_path / "data", "d")) == (
        f"{path}: not the weights of mlp: of {PLAN}, not {other}: run stage train again"
    )
    # of images of another shape
    message = refusal(read_model, path, PLAN, samples(channels=3), (tmp_path / "data", "d"))
    start = f"{path}: not the weights of mlp (Error(s) in loading state_dict for Network: size mismatch for mean: "
    assert message.startswith(start)
    assert "\\n" not in message
    assert "  " not in message
    assert message.endswith("torch.Size([3, 48]).)")


def test_a_spec_that_is_none_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    written(path, spec={"model": {"name": "mlp"}})
    assert refusal(read_model, path, PLAN, samples(), (tmp_path / "data", "d")).startswith(f"{path}: ")


def test_two_models_are_of_one_training_where_all_but_epoch_and_digest_agree() -> None:
    best, last = Path("best"), Path("last")
    facts = {"data": "d", "spec": {"seed": 1}}
    check_one_training((best, facts | {"epoch": 1, "digest": "a"}), (last, facts | {"epoch": 2, "digest": "b"}))
    for changed in ({"data": "e"}, {"spec": {"seed": 2}}):
        assert refusal(check_one_training, (best, facts), (last, facts | changed)) == (
            "best and last are not of one training: run stage train again"
        )


def test_a_model_that_cannot_be_told_from_its_plan_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {}, provenance("weights", data="d"))
    assert refusal(read_model, path, PLAN, samples(), (path, "d")) == (
        f"{path}: holds weights, not model: give another file"
    )
