"""Check stored results: reload model and adversarial images, and recompute every flag of correctness."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bat.attacks.ensemble import check_allowed, margins
from bat.attacks.gradient import predictions
from bat.config import parse
from bat.config.specs import EvaluateSpec
from bat.data.saved import load_data
from bat.errors import BatError
from bat.io.journal import Journal
from bat.io.tables import check_labels, read_table_with_facts
from bat.io.tensors import read_tensors
from bat.models import attackable
from bat.models.saved import read_model


def verify(
    journal: Journal, *, data: Path, best: Path, last: Path, images: Path, attacked: Path, device: str = "auto"
) -> None:
    """Recompute what attacked.parquet says of the clean images and of the strongest adversarial ones.

    images: the adversarial images, from stage evaluate
    attacked: attacked.parquet, from stage evaluate

    Example:
        bat verify --data data.safetensors --best best.safetensors --last last.safetensors \\
            --images images.safetensors --attacked attacked.parquet

    Raises:
        BatError: a file is of another evaluation, training or data set, an image lies outside the threat model, or a
            sample's result differs; names the first.
    """
    table, facts = read_table_with_facts(attacked, "attacked")
    plan = parse(EvaluateSpec, facts["spec"], str(attacked))
    dataset, digest = load_data(data, device)
    if facts["data"] != digest:
        raise BatError(f"{attacked}: made from other data than {data}: give the data set that it was made from")
    stored, of_images = read_tensors(images, "images")
    if of_images | {"kind": "attacked"} != facts:
        raise BatError(f"{images} and {attacked} are not of one evaluation: evaluate again")
    test = dataset.test
    for checkpoint, path in (("best", best), ("last", last)):
        model, training = read_model(path, plan.model, dataset, (data, digest))
        if training["spec"] != facts["training"]:
            raise BatError(f"{path}: of another training than {attacked}: give the weights that were evaluated")
        rows = table[table["checkpoint"] == checkpoint]
        if checkpoint not in stored or len(rows) != len(test) or stored[checkpoint].shape != test.pixels.shape:
            raise BatError(f"{images}: not the {len(test)} images of checkpoint {checkpoint}: evaluate again")
        check_labels(attacked, rows, "test_index", test.index.cpu().numpy(), test.labels.cpu().numpy())
        strongest, found = stored[checkpoint].to(test.labels.device), []
        with journal.work(), attackable(model), torch.no_grad():
            for chosen in torch.split(torch.arange(len(test), device=test.labels.device), plan.batch_size):
                x, x_adv = test.images(chosen), strongest[chosen]
                try:
                    check_allowed(x_adv, x, plan.threat)
                except ValueError as error:
                    raise BatError(f"{images}, checkpoint {checkpoint}: {error}") from error
                labels = test.labels[chosen]
                predicted, margin = predictions(model(x)), margins(model(x_adv), labels)
                found.append(torch.stack([predicted.double(), (predicted == labels).double(), margin.double()]))
        predicted, clean, margin = torch.cat(found, dim=1).cpu().numpy()
        again = pd.DataFrame(
            {
                "predicted": predicted.astype(np.int64),
                "clean_correct": clean > 0,
                "robust_correct": (clean > 0) & (margin > 0),
            }
        )
        for column in again:
            differs = np.flatnonzero(rows[column].to_numpy() != again[column].to_numpy())
            if len(differs):
                first = rows["test_index"].iloc[differs[0]]
                raise BatError(
                    f"{attacked}, checkpoint {checkpoint}: {column} of {len(differs)} samples differs from what model "
                    f"and images give, first of sample {first}: model, images and table are not of one run"
                )
        broken = int((clean > 0).sum() - (again["robust_correct"]).sum())
        journal.line(
            f"checkpoint {checkpoint}: {len(test)} samples agree, {broken} of them shown broken by their image"
        )
