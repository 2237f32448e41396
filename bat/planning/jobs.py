"""Which jobs an experiment has, by rule of the workflow."""

from bat.config import Config, FileScores, Published, rounds_of, runs_of, shards_of, tables_of


def jobs_of(config: Config) -> dict[str, int]:
    """Return the number of jobs of each rule, in the order in which they start, of an experiment without results.

    Of subset models in rounds (memorization.until) all rounds, though the last may not be needed.
    """
    asked = tables_of(config)
    clean, robust = shards_of(config)
    models = len(runs_of(config)) * len(config.training.seeds)
    found = {
        "download": int(isinstance(config.data, Published)),
        "data": 1,
        "subsets": clean,
        "enough": len(rounds_of(config)) - 1,
        "import_scores" if isinstance(config.scores, FileScores) else "scores": 1,
        "null_pairs": int("null_pairs" in asked),
        "duplicates": int("duplicates" in asked),
        "robust_subsets": robust,
        "robust_scores": int("robust_memorization" in asked),
        "train": models,
        "proxies": int("proxies" in asked),
        "groups": 1,
        "harmful": int("harmful" in asked),
        "hardest": int(config.removal.method is not None and bool(config.removal.hardest)),
        "evaluate": models,
        "summary": 1,
        "figures": 1,
        "results": 1,
        "page": 1,
        "explorer": 1,
    }
    return {rule: count for rule, count in found.items() if count > 0}
