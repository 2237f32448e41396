"""The report: figures, tables for papers, the page of results, and pages for a browser."""

# of the first seed alone: they are large
PICTURES = (
    {
        "images": expand(
            rules.evaluate.output.images,
            method=bat.config.pictured(parsed),
            seed=SEEDS[0],
        )
    }
    if parsed.evaluation.images
    else {}
)


rule figures:
    input:
        **optional("harmful", "robust_effects"),
        **PICTURES,
        data=rules.data.output.data,
        memorization=SCORES.memorization,
        train_influence=SCORES.train_influence,
        test_groups=SCORES.test_groups,
        histories=rules.groups.output.histories,
        samples=rules.groups.output.samples,
        per_sample=rules.summary.output.per_sample,
        summary=rules.summary.output.summary,
        comparisons=rules.summary.output.comparisons,
        runs=rules.summary.output.runs,
    output:
        out=[
            *expand(f"{RESULTS}/figures/{{figure}}.pdf", figure=FIGURES),
            *(
                report(
                    f"{RESULTS}/figures/{figure}.svg",
                    caption=f"../report/{figure}.rst",
                    category="Figures",
                )
                for figure in FIGURES
            ),
        ],
    log:
        f"{RESULTS}/logs/figures.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("figures", "mem_mb"),
        runtime=needs("figures", "runtime"),
    params:
        code=digest("report", "io"),
        flags=flags(),
    shell:
        stage("figures", spec="")


rule results:
    input:
        **optional(
            "harmful", "robust_effects", "null_pairs", "proxy_agreement", "duplicates"
        ),
        summary=rules.summary.output.summary,
        comparisons=rules.summary.output.comparisons,
        runs=rules.summary.output.runs,
        flags=rules.summary.output.all_flags,
        memorization=SCORES.memorization,
        test_groups=SCORES.test_groups,
        histories=rules.groups.output.histories,
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
        mem_mb=needs("results", "mem_mb"),
        runtime=needs("results", "runtime"),
    params:
        spec=spec("ResultsSpec"),
        code=digest("report", "evaluation/comparison", "scores/precision", "io"),
        flags=flags(benchmarks=f"{RESULTS}/benchmarks"),
    shell:
        stage("results")


rule page:
    input:
        results=rules.results.output.page,
        flags=rules.summary.output.all_flags,
        figures=[path for path in rules.figures.output.out if path.endswith(".svg")],
    output:
        html=f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/page.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("page", "mem_mb"),
        runtime=needs("page", "runtime"),
    params:
        code=digest("report", "io", "../workflow/report"),
        # no inputs: they are where the workflow is
        flags=flags(
            captions=[
                PACKAGE.parent / f"workflow/report/{figure}.rst" for figure in FIGURES
            ]
        ),
    shell:
        stage("page", spec="")


rule explorer:
    input:
        **optional("harmful", "robust_memorization", "proxies", "label_errors"),
        data=rules.data.output.data,
        memorization=SCORES.memorization,
        influence=SCORES.influence,
        train_influence=SCORES.train_influence,
        test_groups=SCORES.test_groups,
        per_sample=rules.summary.output.per_sample,
    output:
        # written last, after what it reads beside it
        index=f"{RESULTS}/explorer/index.html",
    log:
        f"{RESULTS}/logs/explorer.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=needs("explorer", "mem_mb"),
        runtime=needs("explorer", "runtime"),
    params:
        code=digest("report", "io"),
        flags=flags(),
    shell:
        stage("explorer", spec="")
