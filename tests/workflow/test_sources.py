"""Data sets other than the default one, through the workflow."""

import numpy as np
import pandas as pd
from experiments import SMOKE, edit, new_experiment, planned, snakemake
from PIL import Image

from bat.data.saved import read_data

SCORES = f"{SMOKE}/scores/memorization.parquet"
DATA = f"{SMOKE}/data/data.safetensors"


def use(folder, **data):
    edit(folder, lambda config: config.update(data={"train_samples": "all", "validation_samples": 12} | data))
    return folder


def images(folder):
    for part, n in (("train", 24), ("test", 6)):
        for kind in ("ant", "bee"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            for number in range(n):
                image = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / part / kind / f"{number}.png")


def test_a_published_data_set_is_downloaded_once_for_all_experiments(tmp_path):
    folder = use(new_experiment(tmp_path), name="cifar10", cache="cache")
    stages = {"data": 1, "subsets": 2, "scores": 1}
    assert planned(folder, SCORES) == {"download": 1} | stages
    (folder / "cache").mkdir()
    (folder / "cache" / "cifar10.json").write_text("{}")
    assert planned(folder, SCORES) == stages


def test_a_users_folder_is_read_and_its_changes_are_seen(tmp_path):
    folder = use(new_experiment(tmp_path), name="image_folder", path="images", size=None, colour="rgb")
    done = snakemake(folder, DATA)
    assert done.returncode == 2
    assert "data.path: images: no such folder" in done.stderr
    (folder / "images").mkdir()
    done = snakemake(folder, DATA)
    assert done.returncode == 1
    assert "images: has no folder train" in done.stderr
    images(folder / "images")
    done = snakemake(folder, DATA, "--config", "subsample=0.5")
    assert done.returncode == 0, done.stderr
    assert [len(part) for part in read_data(folder / DATA).parts().values()] == [18, 6, 6]
    files = pd.read_parquet(folder / SMOKE / "data" / "files.parquet")["file"]
    assert all((folder / "images" / name).is_file() for name in files)
    assert planned(folder, DATA, "--config", "subsample=0.5") == {}
    assert planned(folder, DATA) == {"data": 1}
    (folder / "images" / "train" / "cat").mkdir()
    assert planned(folder, DATA, "--config", "subsample=0.5") == {"data": 1}
