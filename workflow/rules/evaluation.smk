"""Stage 3: every model under attack on every test sample, and the summary over seeds."""

# the adversarial images are an output only where the config asks for them
IMAGES = (
    {"images": f"{RESULTS}/evaluation/{{method}}/seed-{{seed}}/images.safetensors"}
    if config["evaluation"]["images"]
    else {}
)


rule evaluate:
    input:
        data=rules.data.output.data,
        best=rules.train.output.best,
        last=rules.train.output.last,
    output:
        **IMAGES,
        samples=f"{RESULTS}/evaluation/{{method}}/seed-{{seed}}/attacked.parquet",
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
        mem_mb=grows(2000),
        runtime=grows(240),
    params:
        spec=spec(
            "evaluation",
            "seed",
            "batch_size",
            "pgd",
            "ensemble",
            model=config["model"],
            threat=config["threat"],
        ),
        images=lambda wildcards, output: f"--images {output.images}" if IMAGES else "",
    shell:
        "python -m bat evaluate"
        " --spec {params.spec:q}"
        " --data {input.data:q}"
        " --best {input.best:q}"
        " --last {input.last:q}"
        " --out {output.samples:q}"
        " --flags {output.flags:q}"
        " {params.images}"
        " --log {log:q}"
        " --threads {threads}"


rule summary:
    input:
        test_groups=SCORES.test_groups,
        evaluations=expand(rules.evaluate.output.samples, method=RUNS, seed=SEEDS),
        flags=expand(rules.evaluate.output.flags, method=RUNS, seed=SEEDS),
        files=rules.data.output.files,
        histories=histories(RUNS),
    output:
        per_sample=f"{RESULTS}/evaluation/per_sample.parquet",
        by_seed=f"{RESULTS}/evaluation/by_seed.parquet",
        summary=f"{RESULTS}/evaluation/summary.parquet",
        comparisons=f"{RESULTS}/evaluation/comparisons.parquet",
        flags=f"{RESULTS}/evaluation/flags.parquet",
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
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        spec=spec("evaluation", "seed", "confidence", "bootstrap", questions=COMPARED),
        code=digest(
            "evaluation/under_attack",
            "evaluation/comparison",
            "evaluation/grounds",
            "statistics",
            "io/tables",
            "io/schemas",
        ),
    shell:
        "python -m bat summary"
        " --spec {params.spec:q}"
        " --test-groups {input.test_groups:q}"
        " --evaluations {input.evaluations:q}"
        " --flags {input.flags:q}"
        " --files {input.files:q}"
        " --histories {input.histories:q}"
        " --per-sample {output.per_sample:q}"
        " --by-seed {output.by_seed:q}"
        " --summary {output.summary:q}"
        " --comparisons {output.comparisons:q}"
        " --all-flags {output.flags:q}"
        " --raised {output.raised:q}"
        " --log {log:q}"
        " --threads {threads}"
