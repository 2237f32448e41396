"""The score explorer of 60,000 training and 10,000 test samples, made up: its size, and how soon Chromium shows it."""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from playwright.sync_api import sync_playwright

from bat.cli import main
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import write_table

TRAIN, TEST, CLASSES, METHODS, SEEDS, PAIRS = 60_000, 10_000, 100, 20, 3, 200_000
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"


def made_up(folder: Path) -> list[str]:
    """Write a data set and tables of random values; return the flags that name them."""
    random = np.random.default_rng(0)

    def part(n: int) -> Part:
        pixels = torch.from_numpy(random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8))
        return Part(pixels, torch.from_numpy(random.integers(0, CLASSES, n)), torch.arange(n), 255)

    data = DataSet(part(TRAIN), part(1), part(TEST), CLASSES)
    write_data(folder / "data.safetensors", data, provenance("data"))
    digest = data.digest()
    models = [(f"method_{number}", seed) for number in range(METHODS) for seed in range(SEEDS)]
    files = [f"images/class_{number % CLASSES}/{number:07}.png" for number in range(TRAIN + TEST)]
    scored = {"train_index": np.arange(TRAIN), "label": data.train.labels.numpy(), "file": files[:TRAIN]}
    tested = {"test_index": np.arange(TEST), "label": data.test.labels.numpy()}
    tables = {
        "memorization": scored,
        "robust_memorization": scored,
        "test_groups": tested | {"file": files[TRAIN:]},
        "influence": {"train_index": random.integers(0, TRAIN, PAIRS), "test_index": random.integers(0, TEST, PAIRS)},
        "per_sample": {name: np.tile(values, len(models)) for name, values in tested.items()}
        | {"method": np.repeat([name for name, _ in models], TEST), "checkpoint": "last"}
        | {"seed": np.repeat([seed for _, seed in models], TEST)}
        | {"broken_by": random.choice(["apgd_ce", "apgd_t", "fab_t", "square"], TEST * len(models))},
    }
    flags = ["--data", str(folder / "data.safetensors")]
    for kind, columns in tables.items():
        table = pd.DataFrame(columns)
        for field in SCHEMAS[kind]:
            if field.name not in table:
                n = len(table)
                values = {pa.float64(): random.random(n), pa.int64(): random.integers(0, 50, n), pa.bool_(): True}
                table[field.name] = values.get(field.type, "fast")
        write_table(folder / f"{kind}.parquet", kind, table, provenance(kind, data=digest))
        flags += [f"--{kind.replace('_', '-')}", str(folder / f"{kind}.parquet")]
    return flags


def timed(index: Path) -> dict[str, float]:
    """Return seconds until Chromium has painted, and until the plot is there."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS.split())
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        start = time.monotonic()
        page.goto(index.as_uri(), wait_until="commit")
        page.wait_for_selector("[role=option]")
        thumbnails = time.monotonic() - start
        paint = page.evaluate(
            "new Promise(done => new PerformanceObserver(list => done(list.getEntries()[0].startTime))"
            ".observe({type: 'paint', buffered: true}))"
        )
        page.wait_for_selector("#scatter canvas")
        found = {"first paint": paint / 1000, "thumbnails": thumbnails, "plot": time.monotonic() - start}
        for name, act in {
            "sort": lambda: page.select_option("#sort", "entropy"),
            "filter": lambda: page.fill("#low", "0.5"),
        }.items():
            start = time.monotonic()
            act()
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            found[name] = time.monotonic() - start
        browser.close()
    return found


def run() -> None:
    """Make the explorer in a folder, and print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder without it")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        index = (folder / "explorer/index.html").absolute()
        flags = made_up(folder)
        start = time.monotonic()
        main(["explorer", *flags, "--index", str(index)])
        print(f"made in {time.monotonic() - start:.1f} s")
        files = [path for path in index.parent.rglob("*") if path.is_file()]
        for name, chosen in {
            "page without images": [path for path in files if path.suffix != ".png"],
            "images": [path for path in files if path.suffix == ".png"],
        }.items():
            print(f"{name}: {len(chosen)} files, {sum(path.stat().st_size for path in chosen) / 1e6:.1f} MB")
        for name, seconds in timed(index).items():
            print(f"{name}: {seconds:.2f} s")


if __name__ == "__main__":
    run()
