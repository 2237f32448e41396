"""Stage 4: figures. One rule draws all: what differs is only which tables a figure needs."""


def histories(runs):
    return expand(rules.train.output.history, method=runs, seed=SEEDS)


MAIN = [method["name"] for method in config["training"]["methods"]]
WEIGHTED = [name for name in METHODS if "reweighting" in RUNS[name]["method"]]
VARIANTS = [f"{name}={base}" for name, base in BASES.items()]

# figure: flag of `bat figure`: files, or other values
FIGURES = {
    "memorization": {"memorization": SCORES.memorization},
    "gallery": {
        "data": rules.data.output.data,
        "memorization": SCORES.memorization,
        "train_influence": SCORES.train_influence,
    },
    "curves": {"histories": histories(MAIN), "test_groups": SCORES.test_groups},
    "tradeoff": {"summary": rules.summary.output.summary},
    "overfitting": {"summary": rules.summary.output.summary},
    "influence": {
        "evaluations": expand(
            rules.evaluate.output.samples, method=MAIN[:8], seed=SEEDS
        )
    },
}
VALUES = {"tradeoff": {"methods": VARIANTS}, "overfitting": {"methods": VARIANTS}}
if WEIGHTED:
    FIGURES["weights"] = {
        "samples": expand(rules.train.output.samples, method=WEIGHTED[:8], seed=SEEDS)
    }
if config["removal"]["method"]:
    memorized = [
        name
        for name in RUNS
        if (RUNS[name]["without"] or {}).get("what") in ("atypical", "top")
    ]
    FIGURES |= {
        "finding_a": {
            "summary": rules.summary.output.summary,
            "histories": histories([config["removal"]["method"], *memorized]),
        },
        "finding_b": {
            "comparisons": rules.summary.output.comparisons,
            "harmful": HARMFUL,
            **(
                {"robust_effects": rules.robust_scores.output.effects}
                if ROBUST_SHARDS
                else {}
            ),
        },
        "harmful": {"data": rules.data.output.data, "harmful": HARMFUL},
    }


def flags(named):
    """Return flags of the command line: --NAME and its values, quoted."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.join([values] if isinstance(values, str) else values)}"
        for name, values in named.items()
    )


rule figure:
    input:
        unpack(lambda wildcards: FIGURES[wildcards.figure]),
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        svg=report(
            f"{RESULTS}/figures/{{figure}}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RESULTS}/logs/figures/{{figure}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        code=digest("figures"),
        flags=lambda wildcards, input: flags(
            dict(input.items()) | VALUES.get(wildcards.figure, {})
        ),
    shell:
        "python -m bat figure {wildcards.figure}"
        " {params.flags}"
        " --out {output:q}"
        " --log {log:q}"
        " --threads {threads}"
