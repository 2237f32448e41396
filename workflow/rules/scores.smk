"""Memorization and influence: models on random subsets and what is estimated from them, or scores from a file."""


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
        mem_mb=needs("subsets", "mem_mb"),
        runtime=needs("subsets", "runtime"),
    params:
        spec=shard_spec(robust=False),
        flags=flags(all_models=[parsed.memorization.subset_models]),
    shell:
        stage("subsets")


# of all models but the robust ones; more are trained while there are not enough
if parsed.memorization.until:

    checkpoint enough:
        input:
            data=rules.data.output.data,
            shards=lambda wildcards: shards_of_models(int(wildcards.models)),
        output:
            enough=f"{RESULTS}/scores/rounds/{{models}}.json",
        log:
            f"{RESULTS}/logs/rounds/{{models}}.log",
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=needs("enough", "mem_mb"),
            runtime=needs("enough", "runtime"),
        params:
            spec=spec("EnoughSpec"),
            flags=flags(),
        shell:
            stage("enough")


rule scores:
    input:
        data=rules.data.output.data,
        files=rules.data.output.files,
        shards=scored_shards,
    output:
        **optional("label_errors"),
        memorization=f"{RESULTS}/scores/memorization.parquet",
        influence=f"{RESULTS}/scores/influence.parquet",
        train_influence=f"{RESULTS}/scores/train_influence.parquet",
        test_groups=f"{RESULTS}/scores/test_groups.parquet",
        validation_groups=f"{RESULTS}/scores/validation_groups.parquet",
        top=f"{RESULTS}/scores/top.csv",
    log:
        f"{RESULTS}/logs/scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/scores.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("scores", "mem_mb"),
        runtime=needs("scores", "runtime"),
    params:
        spec=spec("ScoresSpec"),
        flags=flags(),
    shell:
        stage("scores")


# what later stages read
SCORES = rules.scores.output

if IMPORTED:

    ruleorder: import_scores > scores

    rule import_scores:
        input:
            data=rules.data.output.data,
            files=rules.data.output.files,
            scores=str(bat.io.given.located(parsed.scores.path)),
        output:
            **dict(rules.scores.output.items()),
        log:
            f"{RESULTS}/logs/import_scores.log",
        benchmark:
            f"{RESULTS}/benchmarks/import_scores.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=needs("import_scores", "mem_mb"),
            runtime=needs("import_scores", "runtime"),
        params:
            spec=spec("ImportScoresSpec"),
            flags=flags(),
        shell:
            stage("import-scores")

    SCORES = rules.import_scores.output


# a file of scores does not say what models say
SHARDS_OF_SCORES = {} if IMPORTED else {"shards": rules.scores.input.shards}

if "duplicates" in TABLES:

    rule duplicates:
        input:
            **SHARDS_OF_SCORES,
            data=rules.data.output.data,
            memorization=SCORES.memorization,
        output:
            duplicates=f"{RESULTS}/scores/duplicates.parquet",
        log:
            f"{RESULTS}/logs/duplicates.log",
        benchmark:
            f"{RESULTS}/benchmarks/duplicates.tsv"
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            gpu=0,
            mem_mb=needs("duplicates", "mem_mb"),
            runtime=needs("duplicates", "runtime"),
        params:
            spec=spec("DuplicatesSpec"),
            flags=flags(),
        shell:
            stage("duplicates")


rule null_pairs:
    input:
        data=rules.data.output.data,
        memorization=rules.scores.output.memorization,
        shards=rules.scores.input.shards,
    output:
        null_pairs=f"{RESULTS}/scores/null_pairs.parquet",
    log:
        f"{RESULTS}/logs/null_pairs.log",
    benchmark:
        f"{RESULTS}/benchmarks/null_pairs.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("null_pairs", "mem_mb"),
        runtime=needs("null_pairs", "runtime"),
    params:
        spec=spec("NullPairsSpec"),
        flags=flags(),
    shell:
        stage("null-pairs")


use rule subsets as robust_subsets with:
    output:
        shard=f"{RESULTS}/robust_subsets/shard-{{shard}}.parquet",
    log:
        f"{RESULTS}/logs/robust_subsets/shard-{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/robust_subsets/shard-{{shard}}.tsv"
    resources:
        gpu=0,
        mem_mb=needs("robust_subsets", "mem_mb"),
        runtime=needs("robust_subsets", "runtime"),
    params:
        spec=shard_spec(robust=True),
        flags=flags(),


rule robust_scores:
    input:
        data=rules.data.output.data,
        memorization=SCORES.memorization,
        test_groups=SCORES.test_groups,
        shards=expand(rules.robust_subsets.output.shard, shard=ROBUST_SHARDS),
    output:
        robust_memorization=f"{RESULTS}/scores/robust_memorization.parquet",
        robust_influence=f"{RESULTS}/scores/robust_influence.parquet",
        robust_effects=f"{RESULTS}/scores/robust_effects.parquet",
    log:
        f"{RESULTS}/logs/robust_scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/robust_scores.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("robust_scores", "mem_mb"),
        runtime=needs("robust_scores", "runtime"),
    params:
        spec=spec("ScoresSpec"),
        flags=flags(),
    shell:
        stage("robust-scores")
