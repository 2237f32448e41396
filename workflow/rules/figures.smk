"""Stage 4: figures, by one rule, since only the tables differ that they need; tables for papers, the page of results."""

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
    "curves": {"histories": histories(MAIN[:8]), "test_groups": SCORES.test_groups},
    "tradeoff": {"summary": rules.summary.output.summary},
    "overfitting": {"summary": rules.summary.output.summary},
    "influence": {"per_sample": rules.summary.output.per_sample},
}
VALUES = {
    "tradeoff": {"methods": VARIANTS},
    "overfitting": {"methods": VARIANTS},
    "influence": {"methods": MAIN[:8]},
}
if WEIGHTED:
    FIGURES["weights"] = {"samples": expand(SAMPLES, method=WEIGHTED[:8], seed=SEEDS)}
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
        code=digest("report/figures"),
        flags=lambda wildcards, input: flags(
            dict(input.items()) | VALUES.get(wildcards.figure, {})
        ),
    shell:
        "python -m bat figure {wildcards.figure}"
        " {params.flags}"
        " --out {output:q}"
        " --log {log:q}"
        " --threads {threads}"


rule results:
    input:
        **({"null_pairs": rules.null_pairs.output.pairs} if NULL_PAIRS else {}),
        **({"harmful": HARMFUL} if config["removal"]["method"] else {}),
        **(
            {"robust_effects": rules.robust_scores.output.effects}
            if ROBUST_SHARDS
            else {}
        ),
        summary=rules.summary.output.summary,
        comparisons=rules.summary.output.comparisons,
        flags=rules.summary.output.flags,
        memorization=SCORES.memorization,
        test_groups=SCORES.test_groups,
        histories=histories(RUNS),
    output:
        markdown=f"{RESULTS}/summary.md",
        latex=f"{RESULTS}/summary.tex",
        page=f"{RESULTS}/results.md",
    log:
        f"{RESULTS}/logs/results.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        spec=spec(
            "evaluation",
            "baseline",
            "margin",
            experiment=config["experiment"],
            data=config["data"]["name"],
            model=config["model"],
            recipe=config["training"]["recipe"],
            methods=METHODS,
            weighted=WEIGHTED,
            retrained=config["removal"]["method"],
        ),
        code=digest("report", "evaluation/grounds"),
        flags=lambda wildcards, input: flags(dict(input.items())),
        benchmarks=f"{RESULTS}/benchmarks",
    shell:
        "python -m bat results"
        " --spec {params.spec:q}"
        " {params.flags}"
        " --benchmarks {params.benchmarks:q}"
        " --markdown {output.markdown:q}"
        " --latex {output.latex:q}"
        " --out {output.page:q}"
        " --log {log:q}"
        " --threads {threads}"
