"""Training: each method once per seed, and what groups of samples did in it."""


rule train:
    input:
        unpack(named_samples),
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
        mem_mb=needs("train", "mem_mb"),
        runtime=needs("train", "runtime"),
    params:
        spec=lambda wildcards: spec(
            "TrainSpec", RUNS[wildcards.method], int(wildcards.seed)
        ),
        flags=flags(checkpoint_minutes=[parsed.training.checkpoint_minutes]),
    shell:
        stage("train")


rule groups:
    input:
        memorization=SCORES.memorization,
        validation_groups=SCORES.validation_groups,
        test_groups=SCORES.test_groups,
        records=of_all(rules.train.output.records),
    output:
        histories=of_all(f"{RESULTS}/models/{{method}}/seed-{{seed}}/history.parquet"),
        samples=of_all(f"{RESULTS}/models/{{method}}/seed-{{seed}}/samples.parquet"),
    log:
        f"{RESULTS}/logs/groups.log",
    benchmark:
        f"{RESULTS}/benchmarks/groups.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("groups", "mem_mb"),
        runtime=needs("groups", "runtime"),
    params:
        code=digest("training/records", "io"),
        flags=flags(),
    shell:
        stage("groups", spec="")


rule proxies:
    input:
        **SHARDS_OF_SCORES,  # whose halves are compared
        data=rules.data.output.data,
        memorization=SCORES.memorization,
        records=of_all(rules.train.output.records, [NATURAL] if NATURAL else []),
    output:
        proxies=f"{RESULTS}/scores/proxies.parquet",
        proxy_agreement=f"{RESULTS}/scores/proxy_agreement.parquet",
    log:
        f"{RESULTS}/logs/proxies.log",
    benchmark:
        f"{RESULTS}/benchmarks/proxies.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("proxies", "mem_mb"),
        runtime=needs("proxies", "runtime"),
    params:
        spec=spec("ProxiesSpec"),
        flags=flags(),
    shell:
        stage("proxies")


rule harmful:
    input:
        memorization=SCORES.memorization,
        records=of_all(rules.train.output.records, parsed.removal.method),
    output:
        harmful=f"{RESULTS}/scores/harmful.parquet",
    log:
        f"{RESULTS}/logs/harmful.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("harmful", "mem_mb"),
        runtime=needs("harmful", "runtime"),
    params:
        spec=spec("HarmfulSpec"),
        flags=flags(),
    shell:
        stage("harmful")


rule hardest:
    input:
        memorization=SCORES.memorization,
        records=of_all(rules.train.output.records, parsed.removal.method),
    output:
        hardest=f"{RESULTS}/scores/hardest.parquet",
    log:
        f"{RESULTS}/logs/hardest.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("hardest", "mem_mb"),
        runtime=needs("hardest", "runtime"),
    params:
        flags=flags(),
    shell:
        stage("hardest", spec="")
