"""Whether the search for duplicates finds what hashes of the images' bytes find, and its time and memory.

    python benchmarks/duplicates.py --cache CACHE [--data cifar100]

Takes all images of the training part of a published data set, as data.cache holds it. Printed are the groups of images
with equal bytes, whether the exact repeats are the same samples, how many samples have a near-duplicate of their own
and of another class at several distances, CPU seconds, and the largest memory before and after. One process and thread.
"""

import argparse
import hashlib
import resource
import time
from collections import defaultdict

import numpy as np
import torch

from bat.config import load
from bat.data.dataset import Part, load_source
from bat.scores.duplicates import neighbours


def main() -> None:
    """Search twice and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, help="folder of the files of the data set")
    parser.add_argument("--data", default="cifar100", help="name of a published data set")
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = load("config/config.yaml", f"config/{given.data}.yaml", settings=[f"data.cache={given.cache}"])
    samples = load_source(config.data, subsample=1.0)
    pixels, labels, index = (
        torch.cat([getattr(part, name) for part in (samples.train, samples.validation)])
        for name in ("pixels", "labels", "index")
    )
    order = index.argsort()
    images = Part(pixels[order], labels[order], index[order], samples.train.pixel_max)
    groups = defaultdict(list)
    for row, image in enumerate(images.pixels.numpy()):
        groups[hashlib.sha256(image.tobytes()).digest()].append(row)
    equal = [rows for rows in groups.values() if len(rows) > 1]
    differ = sum(len(set(images.labels[rows].tolist())) > 1 for rows in equal)
    print(f"{len(images)} images: {len(equal)} groups of equal bytes, {differ} of them with different labels")
    before, start = _megabytes(), time.process_time()
    own, other, _ = neighbours(images, within=0.05)
    used = time.process_time() - start
    found = np.flatnonzero((own.distance == 0) | (other.distance == 0)).tolist()
    repeated = sorted(row for rows in equal for row in rows)
    print(f"exact repeats: {len(found)} samples, the same: {found == repeated}")
    for within in (0.02, 0.05, 0.07, 0.1):
        print(f"within {within}: {(own.distance <= within).sum()}, {(other.distance <= within).sum()} of another class")
    print(f"{used:.0f} s of CPU time; largest memory {before} MB before, {_megabytes()} MB after")


def _megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
