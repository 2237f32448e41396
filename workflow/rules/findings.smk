"""Findings (a) and (b): what atypical samples do to others, by leaving them out and under attack."""


rule harmful:
    input:
        memorization=SCORES.memorization,
        records=expand(
            rules.train.output.records, method=config["removal"]["method"], seed=SEEDS
        ),
    output:
        harmful=HARMFUL,
    log:
        f"{RESULTS}/logs/harmful.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        spec=json.dumps({"threshold": config["removal"]["harmful_threshold"]}),
    shell:
        "python -m bat harmful"
        " --spec {params.spec:q}"
        " --memorization {input.memorization:q}"
        " --records {input.records:q}"
        " --out {output.harmful:q}"
        " --log {log:q}"
        " --threads {threads}"


use rule subsets as robust_subsets with:
    output:
        shard=f"{RESULTS}/robust_subsets/shard-{{shard}}.parquet",
    log:
        f"{RESULTS}/logs/robust_subsets/shard-{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/robust_subsets/shard-{{shard}}.tsv"
    params:
        spec=lambda wildcards: subsets_spec(
            wildcards.shard,
            adversary={
                "threat": config["threat"],
                "attack": config["memorization"]["robust"]["attack"],
                "attack_bn": config["training"]["attack_bn"],
            },
        ),


rule robust_scores:
    input:
        data=rules.data.output.data,
        memorization=SCORES.memorization,
        test_groups=SCORES.test_groups,
        shards=expand(rules.robust_subsets.output.shard, shard=ROBUST_SHARDS),
    output:
        memorization=f"{RESULTS}/scores/robust_memorization.parquet",
        influence=f"{RESULTS}/scores/robust_influence.parquet",
        effects=f"{RESULTS}/scores/robust_effects.parquet",
    log:
        f"{RESULTS}/logs/robust_scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/robust_scores.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(60),
    params:
        spec=spec("memorization", "threshold", "false_discovery_rate", "confidence"),
    shell:
        "python -m bat robust-scores"
        " --spec {params.spec:q}"
        " --data {input.data:q}"
        " --shards {input.shards:q}"
        " --memorization {input.memorization:q}"
        " --test-groups {input.test_groups:q}"
        " --robust-memorization {output.memorization:q}"
        " --robust-influence {output.influence:q}"
        " --robust-effects {output.effects:q}"
        " --log {log:q}"
        " --threads {threads}"
