"""Stage 1 from a file of scores, in place of subset models."""

# what later stages read
SCORES = rules.scores.output

if config["scores"]["source"] == "file":

    ruleorder: import_scores > scores

    rule import_scores:
        input:
            data=rules.data.output.data,
            file=str(bat.io.given.located(config["scores"]["path"])),
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
            mem_mb=grows(8000),
            runtime=grows(60),
        params:
            spec=spec("memorization", "threshold", format=config["scores"]["format"]),
        shell:
            "python -m bat import-scores"
            " --spec {params.spec:q}"
            " --data {input.data:q}"
            " --file {input.file:q}"
            " --memorization {output.memorization:q}"
            " --influence {output.influence:q}"
            " --train-influence {output.train_influence:q}"
            " --test-groups {output.test_groups:q}"
            " --validation-groups {output.validation_groups:q}"
            " --log {log:q}"
            " --threads {threads}"

    SCORES = rules.import_scores.output
