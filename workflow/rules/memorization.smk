"""Stage 1: models on random subsets, and the scores estimated from them."""


rule subsets:
    input:
        data=rules.data.output.data,
    output:
        shard=f"{RESULTS}/subsets/shard-{{shard}}.parquet",
    log:
        f"{RESULTS}/logs/subsets/shard-{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/subsets/shard-{{shard}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=0,  # a profile asks for more
        mem_mb=grows(2000),
        runtime=grows(240),
        # no parameter: a change of it must not train all models again
        all_models=config["memorization"]["subset_models"],
    params:
        spec=lambda wildcards: subsets_spec(wildcards.shard, adversary=None),
    shell:
        "python -m bat subsets"
        " --spec {params.spec:q}"
        " --data {input.data:q}"
        " --out {output.shard:q}"
        " --all-models {resources.all_models}"
        " --log {log:q}"
        " --threads {threads}"


rule scores:
    input:
        data=rules.data.output.data,
        shards=expand(rules.subsets.output.shard, shard=SHARDS),
    output:
        memorization=f"{RESULTS}/scores/memorization.parquet",
        influence=f"{RESULTS}/scores/influence.parquet",
        train_influence=f"{RESULTS}/scores/train_influence.parquet",
        test_groups=f"{RESULTS}/scores/test_groups.parquet",
        validation_groups=f"{RESULTS}/scores/validation_groups.parquet",
    log:
        f"{RESULTS}/logs/scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/scores.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(60),
    params:
        spec=spec("memorization", "threshold", "false_discovery_rate", "confidence"),
    shell:
        "python -m bat scores"
        " --spec {params.spec:q}"
        " --data {input.data:q}"
        " --shards {input.shards:q}"
        " --memorization {output.memorization:q}"
        " --influence {output.influence:q}"
        " --train-influence {output.train_influence:q}"
        " --test-groups {output.test_groups:q}"
        " --validation-groups {output.validation_groups:q}"
        " --log {log:q}"
        " --threads {threads}"


rule null_pairs:
    input:
        data=rules.data.output.data,
        memorization=rules.scores.output.memorization,
        shards=rules.scores.input.shards,
    output:
        pairs=f"{RESULTS}/scores/null_pairs.parquet",
    log:
        f"{RESULTS}/logs/null_pairs.log",
    benchmark:
        f"{RESULTS}/benchmarks/null_pairs.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(60),
    params:
        spec=spec(
            "memorization", "threshold", "false_discovery_rate", "shuffles", "seed"
        ),
    shell:
        "python -m bat null-pairs"
        " --spec {params.spec:q}"
        " --data {input.data:q}"
        " --shards {input.shards:q}"
        " --memorization {input.memorization:q}"
        " --out {output.pairs:q}"
        " --log {log:q}"
        " --threads {threads}"
