"""The data: downloaded once where it has to be, read once, split."""

if PUBLISHED:

    rule download:
        output:
            # of all experiments with this cache
            receipt=str(
                bat.io.given.located(parsed.data.cache) / f"{parsed.data.name}.json"
            ),
        log:
            f"{RESULTS}/logs/download.log",
        retries: 3
        # on the machine that runs the workflow: nodes of a cluster often have no way out
        localrule: True
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=needs("download", "mem_mb"),
            runtime=needs("download", "runtime"),
        params:
            spec=spec("DownloadSpec"),
            flags=flags(),
        shell:
            stage("download")


rule data:
    input:
        source_of_data,
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
        mem_mb=needs("data", "mem_mb"),
        runtime=needs("data", "runtime"),
    params:
        spec=spec("DataSpec"),
        flags=flags(),
    shell:
        stage("data")
