"""What a run tells on the terminal: a line per job, the end of the log of one that fails, and at last where the results are."""

import logging
from datetime import timedelta

from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent


class OneLinePerJob(logging.Formatter):
    """Tell of a job when it ends, in one line, or with the end of its log if it failed; all else as Snakemake does."""

    LAST_LINES = 10
    NEEDLESS = "Select jobs to execute...", "RuleException:\nCalledProcessError"
    """How messages begin that say nothing more: the second holds the whole command of a job that failed."""

    def __init__(self, others, before):
        """others: what formats other records; before: what stands before a line, as to clear a progress bar."""
        super().__init__()
        self.others, self.before = others, before
        self.started, self.finished = {}, []

    def filter(self, record):
        """Return whether a record is shown, and keep what the line of a job needs: its name, and how long it took."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            named = (f"{key}={value}" for key, value in record.wildcards.items())
            name = " ".join([record.rule_name, *named])
            self.started[record.jobid] = name, record.created
        elif event == LogEvent.JOB_FINISHED:
            name, since = self.started.pop(record.job_id)
            taken = timedelta(seconds=round(record.created - since))
            self.finished.append(f"{name}, {taken}")
        elif event != LogEvent.JOB_STARTED:
            return not str(record.msg).startswith(self.NEEDLESS)
        return False

    def format(self, record):
        event = getattr(record, "event", None)
        if event == LogEvent.PROGRESS:
            names, self.finished = "; ".join(self.finished), []
            text = f"{record.done:>{len(str(record.total))}} of {record.total}: {names}"
        elif event == LogEvent.JOB_ERROR:
            text = "\n    ".join(self.failed(record))
        else:
            text = self.others.format(record)
        return text and self.before + text

    def failed(self, record):
        """Yield the lines on a job that failed."""
        yield f"Failed: {self.started[record.jobid][0]}"
        yield f"output: {', '.join(record.output)}"
        for log in map(Path, record.log):
            yield f"log: {log}"
            if log.exists():
                text = log.read_text(encoding="utf-8", errors="replace")
                yield from text.splitlines()[-self.LAST_LINES :]


def tell_briefly():
    """Let Snakemake tell each job in one line on the terminal; its own log, whose place it tells at the end, has all.

    Not where more is asked for, and not where a logger plugin writes to the terminal.
    """
    asked = workflow.output_settings
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and not (
            asked.verbose or asked.printshellcmds
        ):
            # jobs draw their progress bars on the line on which the next text would begin
            before = "\r\033[K" if handler.stream.isatty() else ""
            brief = OneLinePerJob(handler.formatter, before)
            # before Snakemake's own, which may drop what a job is called
            handler.filters.insert(0, brief)
            handler.setFormatter(brief)


def tell(finished):
    """Print what the page of results warns of and, of a finished run, where its results are and the first answer."""
    page = Path(f"{RESULTS}/results.md")
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    told = [f"{page}: {line[2:]}" for line in lines if line.startswith("> ")]
    if finished:
        # five lines at most, so that they are read
        more = f" (and {len(told) - 1} more warnings)" if len(told) > 1 else ""
        told = [f"{line}{more}" for line in told[:1]]
        places = {
            "report": "report.html",
            "explorer": "explorer/index.html",
            "tables": "results.md",
        }
        told += [
            f"{what}: {RESULTS}/{name}"
            for what, name in places.items()
            if Path(f"{RESULTS}/{name}").exists()
        ]
        rows = iter(lines)
        if any(line.startswith("| question") for line in rows):
            _, first = next(rows), next(rows)
            if first:
                told.append(": ".join(cell.strip() for cell in first.split("|")[1:3]))
    for line in told:
        print(line, file=sys.stderr)
