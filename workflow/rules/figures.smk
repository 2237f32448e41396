"""Stage 4: figures."""


rule figure_memorization:
    input:
        memorization=SCORES.memorization,
    output:
        pdf=f"{RESULTS}/figures/memorization.pdf",
        svg=report(
            f"{RESULTS}/figures/memorization.svg",
            caption="../report/memorization.rst",
            category="Memorization",
        ),
    log:
        f"{RESULTS}/logs/figures/memorization.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        code=digest("figures"),
    shell:
        "python -m bat figure memorization"
        " --memorization {input.memorization:q}"
        " --out {output:q}"
        " --log {log:q}"
        " --threads {threads}"


rule figure_gallery:
    input:
        data=rules.data.output.data,
        memorization=SCORES.memorization,
        train_influence=SCORES.train_influence,
    output:
        pdf=f"{RESULTS}/figures/gallery.pdf",
        svg=report(
            f"{RESULTS}/figures/gallery.svg",
            caption="../report/gallery.rst",
            category="Memorization",
        ),
    log:
        f"{RESULTS}/logs/figures/gallery.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        code=digest("figures"),
    shell:
        "python -m bat figure gallery"
        " --data {input.data:q}"
        " --memorization {input.memorization:q}"
        " --train-influence {input.train_influence:q}"
        " --out {output:q}"
        " --log {log:q}"
        " --threads {threads}"


rule figure_curves:
    input:
        histories=expand(rules.train.output.history, method=METHODS, seed=SEEDS),
        test_groups=SCORES.test_groups,
    output:
        pdf=f"{RESULTS}/figures/curves.pdf",
        svg=report(
            f"{RESULTS}/figures/curves.svg",
            caption="../report/curves.rst",
            category="Training",
        ),
    log:
        f"{RESULTS}/logs/figures/curves.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        code=digest("figures"),
    shell:
        "python -m bat figure curves"
        " --histories {input.histories:q}"
        " --test-groups {input.test_groups:q}"
        " --out {output:q}"
        " --log {log:q}"
        " --threads {threads}"


rule figure_tradeoff:
    input:
        summary=rules.summary.output.summary,
        by_seed=rules.summary.output.by_seed,
    output:
        pdf=f"{RESULTS}/figures/tradeoff.pdf",
        svg=report(
            f"{RESULTS}/figures/tradeoff.svg",
            caption="../report/tradeoff.rst",
            category="Trade-off",
        ),
    log:
        f"{RESULTS}/logs/figures/tradeoff.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=grows(2000),
        runtime=grows(30),
    params:
        code=digest("figures"),
    shell:
        "python -m bat figure tradeoff"
        " --summary {input.summary:q}"
        " --by-seed {input.by_seed:q}"
        " --out {output:q}"
        " --log {log:q}"
        " --threads {threads}"
