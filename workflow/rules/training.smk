"""Stage 2: each method, once a seed, and what groups of samples did in it."""

HISTORY, SAMPLES = (
    f"{RESULTS}/models/{{method}}/seed-{{seed}}/{name}.parquet"
    for name in ("history", "samples")
)


rule train:
    input:
        unpack(lambda wildcards: named_samples(wildcards.method)),
        data=rules.data.output.data,
    output:
        best=f"{RESULTS}/models/{{method}}/seed-{{seed}}/best.safetensors",
        last=f"{RESULTS}/models/{{method}}/seed-{{seed}}/last.safetensors",
        records=f"{RESULTS}/models/{{method}}/seed-{{seed}}/records.parquet",
    log:
        f"{RESULTS}/logs/train/{{method}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{method}}/seed-{{seed}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=0,  # a profile asks for more
        mem_mb=grows(2000),
        runtime=grows(720),
        # no parameter: a change of it must not train all models again
        checkpoint_minutes=config["training"]["checkpoint_minutes"],
    params:
        spec=lambda wildcards: spec(
            "training",
            "recipe",
            "attack",
            "attack_bn",
            "measure_every",
            "early_stop",
            model=config["model"],
            compute=config["compute"],
            threat=config["threat"],
            seed=int(wildcards.seed),
            **RUNS[wildcards.method],
        ),
        named=lambda wildcards: flags(named_samples(wildcards.method)),
    shell:
        "python -m bat train"
        " --spec {params.spec:q}"
        " --data {input.data:q}"
        " {params.named}"
        " --best {output.best:q}"
        " --last {output.last:q}"
        " --records {output.records:q}"
        " --checkpoint-minutes {resources.checkpoint_minutes}"
        " --log {log:q}"
        " --threads {threads}"


rule groups:
    input:
        memorization=SCORES.memorization,
        validation_groups=SCORES.validation_groups,
        test_groups=SCORES.test_groups,
        records=expand(rules.train.output.records, method=RUNS, seed=SEEDS),
    output:
        histories=histories(RUNS),
        samples=expand(SAMPLES, method=RUNS, seed=SEEDS),
    log:
        f"{RESULTS}/logs/groups.log",
    benchmark:
        f"{RESULTS}/benchmarks/groups.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        code=digest("training/records", "io/tables", "io/schemas"),
    shell:
        "python -m bat groups"
        " --memorization {input.memorization:q}"
        " --validation-groups {input.validation_groups:q}"
        " --test-groups {input.test_groups:q}"
        " --records {input.records:q}"
        " --histories {output.histories:q}"
        " --samples {output.samples:q}"
        " --log {log:q}"
        " --threads {threads}"
