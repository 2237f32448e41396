"""Evaluation: every model under attack on every test sample, and the summary over seeds."""

# the adversarial images are an output only where the config asks for them
IMAGES = (
    {"images": f"{RESULTS}/evaluation/{{method}}/seed-{{seed}}/images.safetensors"}
    if parsed.evaluation.images
    else {}
)


rule evaluate:
    input:
        data=rules.data.output.data,
        best=rules.train.output.best,
        last=rules.train.output.last,
    output:
        **IMAGES,
        attacked=f"{RESULTS}/evaluation/{{method}}/seed-{{seed}}/attacked.parquet",
        flags=f"{RESULTS}/evaluation/{{method}}/seed-{{seed}}/flags.parquet",
    log:
        f"{RESULTS}/logs/evaluate/{{method}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{method}}/seed-{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=0,  # a profile asks for more
        mem_mb=needs("evaluate", "mem_mb"),
        runtime=needs("evaluate", "runtime"),
    params:
        spec=spec("EvaluateSpec"),
        flags=flags(),
    shell:
        stage("evaluate")


rule summary:
    input:
        test_groups=SCORES.test_groups,
        attacked=of_all(rules.evaluate.output.attacked),
        flags=of_all(rules.evaluate.output.flags),
        files=rules.data.output.files,
        histories=rules.groups.output.histories,
    output:
        per_sample=f"{RESULTS}/evaluation/per_sample.parquet",
        by_seed=f"{RESULTS}/evaluation/by_seed.parquet",
        summary=f"{RESULTS}/evaluation/summary.parquet",
        comparisons=f"{RESULTS}/evaluation/comparisons.parquet",
        runs=f"{RESULTS}/evaluation/runs.parquet",
        all_flags=f"{RESULTS}/evaluation/flags.parquet",
        raised=report(
            f"{RESULTS}/evaluation/flags.csv",
            caption="../report/flags.rst",
            category="Trade-off",
        ),
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("summary", "mem_mb"),
        runtime=needs("summary", "runtime"),
    params:
        spec=spec("SummarySpec"),
        code=digest(
            "evaluation/summary",
            "evaluation/comparison",
            "evaluation/grounds",
            "statistics",
            "io",
        ),
        flags=flags(),
    shell:
        stage("summary")
