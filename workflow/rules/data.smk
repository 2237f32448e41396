"""The data: downloaded once where it has to be, read once, split."""

if "cache" in config["data"]:

    rule download:
        output:
            receipt=RECEIPT,
        log:
            f"{RESULTS}/logs/download.log",
        retries: 3
        # on the machine that runs the workflow: nodes of a cluster often have no way out
        localrule: True
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=240,
        params:
            spec=spec("data", "name", "cache"),
        shell:
            "python -m bat download"
            " --spec {params.spec:q}"
            " --out {output.receipt:q}"
            " --log {log:q}"
            " --threads {threads}"


rule data:
    input:
        source=SOURCE,
    output:
        data=f"{RESULTS}/data/data.safetensors",
        files=f"{RESULTS}/data/files.parquet",
    log:
        f"{RESULTS}/logs/data.log",
    benchmark:
        f"{RESULTS}/benchmarks/data.tsv"
    conda:
        "../../environment.yml"
    # decodes that many image files at once
    threads: 4
    resources:
        mem_mb=grows(4000),
        runtime=grows(60),
    params:
        spec=spec("data", data=config["data"], subsample=config["subsample"]),
    shell:
        "python -m bat data"
        " --spec {params.spec:q}"
        " --out {output.data:q}"
        " --files {output.files:q}"
        " --log {log:q}"
        " --threads {threads}"
