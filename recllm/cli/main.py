"""The door: registers the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Mapping

import typer

from recllm import __version__
from recllm.cli import (
    adtext,
    answer,
    batch,
    campaign,
    data,
    experiment,
    learn,
    maps,
    occasions,
    rights,
    service,
    show,
    webhooks,
)
from recllm.cli.options import add_command
from recllm.errors import RecllmError
from recllm.text.log_lines import log_to_stderr, warn_in_this_form

app = typer.Typer(
    name="recllm",
    help="Personal marketing from a shop's own logs: recommendations with true reasons, ad text with checked claims.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = (
    *(data.init, data.ingest, data.validate, data.describe, data.pseudonym, data.profile),
    *(learn.advise, learn.train, learn.retrain, learn.evaluate, answer.recommend, answer.explain, answer.report),
    *(answer.audience, answer.predict, answer.uplift, learn.refresh, learn.index),
    *(show.start, show.demo, show.doctor, show.prompts, show.settings),
    answer.search,
    occasions.occasions,
    service.serve,
    *(rights.backup, rights.restore),
)
GROUPS: Mapping[str, tuple[str | None, Mapping[str, Callable[..., None]]]] = {
    "batch": (
        "Answers for everybody, and a catalogue's vectors, shard by shard: in processes, or on machines with Ray.",
        {
            "recommend": batch.recommend,
            "audience": batch.audience,
            "copy": batch.copy,
            "predict": batch.predict,
            "encode": batch.encode,
        },
    ),
    "map": ("Column maps: how a shop's own files say what a table means.", {"suggest": maps.suggest}),
    "encoder": ("Encoders on disk.", {"export": learn.export}),
    "feedback": (
        "What people did with what they were shown.",
        {"add": answer.feedback_add, "report": answer.report},
    ),
    "campaign": (
        "Campaigns from plan to report.",
        {
            "plan": campaign.plan,
            "preview": campaign.preview,
            "approve": campaign.approve,
            "export": campaign.export,
            "report": campaign.report,
        },
    ),
    "privacy": (
        "People's rights: what is stored of them, and that it goes; the audit log, retention, the key.",
        {
            "export": rights.export,
            "erase": rights.erase,
            "restrict": rights.restrict,
            "readmit": rights.readmit,
            "audit": rights.audit_log,
            "retention": rights.retention,
            "rotate-key": rights.rotate_key,
            "verify": rights.verify_certificate,
        },
    ),
    "experiments": (
        "Experiments on slates: variants by lot, and what may be said of them.",
        {
            "start": experiment.start,
            "list": experiment.list_all,
            "report": experiment.report,
            "stop": experiment.stop,
            "estimate": experiment.estimate,
        },
    ),
    "keys": (
        "API keys of the service: who may call it, and for what.",
        {"create": service.create, "list": service.list_all, "revoke": service.revoke},
    ),
    "webhooks": (
        "Reports of mail and message services, and announcements to your own systems.",
        {
            "add": webhooks.add,
            "list": webhooks.list_all,
            "remove": webhooks.remove,
            "target": webhooks.target,
            "send": webhooks.send,
        },
    ),
    "copy": (None, {"check": adtext.check, "rank": adtext.rank, "replay": adtext.replay}),
    "models": (
        "Published models: list them, and choose which one serves.",
        {"list": learn.list_models, "promote": learn.promote, "rollback": learn.rollback},
    ),
}

for function in COMMANDS:
    add_command(app, function)
for name, (words, commands) in GROUPS.items():
    group = typer.Typer(help=words, no_args_is_help=True)
    if name == "copy":  # it is a command as well
        group = typer.Typer(invoke_without_command=True)
        group.callback()(adtext.copy)
    for command, function in commands.items():
        add_command(group, function, command)
    if name == "copy":
        vocabulary = typer.Typer(help="Words beyond the facts that the shop's people approved.", no_args_is_help=True)
        add_command(vocabulary, adtext.add_vocabulary, "add")
        add_command(vocabulary, adtext.learn_vocabulary, "learn")
        add_command(vocabulary, adtext.list_vocabulary, "list")
        group.add_typer(vocabulary, name="vocabulary")
    app.add_typer(group, name=name)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Show the log of the rooms on standard error."),
) -> None:
    if verbose:
        log_to_stderr()
        logging.getLogger("recllm").setLevel(logging.INFO)


def main() -> None:
    """Entry point of the `recllm` command."""
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
