"""The door: registers the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Mapping

import typer

from recllm import __version__
from recllm.base.errors import RecllmError
from recllm.doors.cli import (
    adtext,
    answer,
    campaign,
    data,
    deploy,
    learn,
    rights,
    service,
    show,
)
from recllm.doors.cli.options import Answer, as_command
from recllm.text.log_lines import log_to_stderr, warn_in_this_form

COMMANDS = (
    *(data.init, data.ingest),
    *(learn.advise, learn.train, learn.retrain, learn.evaluate, answer.recommend, answer.explain),
    *(answer.audience, answer.predict, answer.uplift, learn.refresh),
    *(show.start, show.doctor, show.settings, deploy.deploy),
    answer.search,
    answer.occasions,
    *(service.serve, service.mcp, service.keys, service.webhooks, learn.models),
    *(rights.backup, rights.restore),
)
GROUPS: Mapping[str, tuple[str | None, Mapping[str, Callable[..., Answer | None]]]] = {
    "feedback": (
        "Events that answer recommendations.",
        {"report": answer.report},
    ),
    "campaign": (
        "Campaigns from plan to report.",
        {
            "plan": campaign.plan,
            "approve": campaign.approve,
            "export": campaign.export,
            "send": campaign.send,
            "report": campaign.report,
        },
    ),
    "privacy": (
        "Rights of customers (export, erasure, restriction), the audit log, retention, the key.",
        {
            "export": rights.export,
            "erase": rights.erase,
            "restrict": rights.restrict,
            "audit": rights.audit_log,
            "retention": rights.retention,
            "rotate-key": rights.rotate_key,
        },
    ),
    "experiments": (
        "Experiments on recommendations: random variants and their effects.",
        {
            "start": campaign.start_experiment,
            "report": campaign.report_experiment,
        },
    ),
    "copy": (None, {"check": adtext.check}),
}

app = typer.Typer(
    name="recllm",
    help="Personal marketing from a shop's own logs: recommendations with true reasons, ad text with checked claims.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for function in COMMANDS:
    app.command()(as_command(function))
for name, (words, commands) in GROUPS.items():
    group = typer.Typer(help=words, no_args_is_help=True)
    if name == "copy":  # it is a command as well
        group = typer.Typer(invoke_without_command=True)
        group.callback()(as_command(adtext.copy))
    for command_name, command in commands.items():
        group.command(command_name)(as_command(command))
    app.add_typer(group, name=name)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Show the log on standard error."),
) -> None:
    if verbose:
        log_to_stderr()
        logging.getLogger("recllm").setLevel(logging.INFO)


def main() -> None:
    warn_in_this_form()
    try:
        app()
    except RecllmError as error:
        sys.stderr.write(f"recllm: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")
        if error.errno == errno.ENOSPC:
            file = error.filename or "a file"
            message = f"no space left on the disk while writing {file}; free some and run this again"
        sys.stderr.write(f"recllm: {message}\n")
        sys.exit(1)
    except MemoryError:
        sys.stderr.write("recllm: out of memory; nothing half done was kept: close other programs, or use less data\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("recllm: stopped; nothing half done was kept\n")
        sys.exit(130)
