"""Influence of this package against the two masked products of Feldman and Zhang's example.

    python benchmarks/influence.py [--models 2000] [--train 49000] [--test 10000] [--classes 100] [--rounds 3]

Made-up bits, one thread, each in a process of its own. Four ways to compute how much more often
models are right on a test sample when they were trained on a training sample than when they were not:

- bat: pairs of one class, which are all that the definition of an atypical test sample needs, as stage scores has
  them: hard and soft, with tests
- counts: of the same pairs, of the hard influence alone, as this package has them
- products by class: the same by the two products M^T C and (1 - M)^T C in float32
- products: all training samples by all test samples, as their example does: this package has no such thing

The peak of the machine is that of a plain product of two square float32 matrices, measured beside them. Memory is the
largest of the process, with the bits and what is imported.
"""

import argparse
import hashlib
import resource
import subprocess
import sys
import time
from statistics import median

import numpy as np

from bat.scores.estimators import InfluenceFinder, influence_rates

_WAYS = ("bat", "counts", "products by class", "products")


def main() -> None:
    """Run the ways in turns and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("models", 2000), ("train", 49_000), ("test", 10_000), ("classes", 100), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--way", choices=(*_WAYS, "peak"))
    parser.add_argument("--digest", action="store_true")
    given = parser.parse_args()
    if given.way:
        _one(given)
        return
    alike = {way: _run(given, way, "--digest")[0] for way in ("counts", "products by class")}
    print(f"counts of this package and of products by class are equal: {len(set(alike.values())) == 1}")
    rounds = [{way: _run(given, way)[1:] for way in (*_WAYS, "peak")} for _ in range(given.rounds)]
    found = {way: [one[way] for one in rounds] for way in (*_WAYS, "peak")}
    peak = max(flops for _, _, flops in found["peak"])
    for way in _WAYS:
        seconds, memory, flops = (median(values) for values in zip(*found[way], strict=True))
        share = f"{flops / 1e9 / seconds:.0f} GFLOP/s, {flops / seconds / peak:.2f} of the peak of {peak / 1e9:.0f}"
        print(f"{way:18} {seconds:8.2f} s of CPU  {memory:8.0f} MB  {share}")
    for way, other in (("bat", "products"), ("counts", "products"), ("counts", "products by class")):
        for place, what in enumerate(("time", "memory")):
            ratios = [a[place] / b[place] for a, b in zip(found[way], found[other], strict=True)]
            print(f"{what}, {way} / {other}: {median(ratios):.3f} (range {min(ratios):.3f} to {max(ratios):.3f})")


def _run(given: argparse.Namespace, way: str, *flags: str) -> tuple[str, float, float, float]:
    """Return what a way found, its CPU seconds, its largest memory in MB, and its operations."""
    sizes = [f"--{name}={getattr(given, name)}" for name in ("models", "train", "test", "classes")]
    text = subprocess.check_output([sys.executable, __file__, f"--way={way}", *sizes, *flags], text=True).split()
    return text[0], float(text[1]), float(text[2]), float(text[3])


def _one(given: argparse.Namespace) -> None:
    random = np.random.default_rng(0)
    # row by row, so that the numbers that bits are made of are not the largest memory
    mask = np.stack([random.random(given.train, dtype=np.float32) < 0.7 for _ in range(given.models)])
    correct = np.stack([random.random(given.test, dtype=np.float32) < 0.8 for _ in range(given.models)])
    labels, targets = np.arange(given.train) % given.classes, np.arange(given.test) % given.classes
    digest, operations = hashlib.sha256(), 2.0 * given.models * given.train * given.test
    start = time.process_time()
    if given.way == "products":
        with_sample = mask.astype(np.float32)
        right = correct.astype(np.float32)
        n_in = with_sample.sum(0)[:, None]
        influence = with_sample.T @ right / n_in
        np.subtract(1, with_sample, out=with_sample)
        influence -= with_sample.T @ right / (given.models - n_in)
        operations *= 2
    elif given.way == "peak":
        side = np.ones((2048, 2048), dtype=np.float32)
        side @ side
        start = time.process_time()
        for _ in range(4):
            side @ side
        operations = 4 * 2.0 * 2048**3 / (time.process_time() - start)
    else:
        finder = InfluenceFinder(false_discovery_rate=0.05, over=0.15)
        operations *= 2 / given.classes if given.way == "products by class" else 1 / given.classes
        for label in range(given.classes):
            mine, theirs = np.flatnonzero(labels == label), np.flatnonzero(targets == label)
            in_subset, right = mask[:, mine], correct[:, theirs]
            if given.way == "products by class":
                with_sample = in_subset.T.astype(np.float32)
                counts = with_sample @ right.astype(np.float32), (1 - with_sample) @ right.astype(np.float32)
                n_in = with_sample.sum(1)[:, None]
                _ = counts[0] / n_in - counts[1] / (given.models - n_in)
            elif given.way == "counts":
                rates = influence_rates(in_subset, right)
                counts = rates.correct_in, rates.correct_out
            else:
                p = right.astype(np.float16)
                finder.add(in_subset, right, p, label=label, train_index=mine, target_index=theirs)
                continue
            for count in counts:
                if given.digest:
                    digest.update(count.astype(np.int64).tobytes())
        if given.way == "bat":
            finder.result()
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(digest.hexdigest(), seconds, memory, operations)


if __name__ == "__main__":
    main()
