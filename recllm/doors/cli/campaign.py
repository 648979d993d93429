"""Commands about campaigns, and about experiments on slates."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recllm.base.documents import count_text, plain
from recllm.base.errors import UsageError
from recllm.base.words.sentences import section
from recllm.base.words.words import Figure
from recllm.doors.cli.options import (
    Answer,
    Ids,
    Shop,
    document_lines,
    ids_by_pseudonym,
    note,
    write_audit,
)

if TYPE_CHECKING:
    from recllm.market.campaigns.open_campaign import OpenCampaign
    from recllm.market.sending.send import SendOutcome

OneFile = Annotated[Path, typer.Argument(help="The campaign as TOML.")]

PSEUDONYMS_TELL_NOBODY = (
    "people are named by pseudonyms, which no service can send to; --ids FILE, your ids one a line, names them instead"
)


def plan(
    file: OneFile,
    shop: Shop,
    replace: Annotated[bool, typer.Option(help="Plan again; refused once anything was exported.")] = False,
) -> Answer:
    """Choose the customers, one item each, and write the texts; all is kept in the workspace."""
    from recllm.market.audiences.audience import aim, counts_in_words
    from recllm.market.campaigns.file import read_campaign
    from recllm.market.campaigns.plan import plan_campaign

    progress = note if sys.stderr.isatty() else None
    planned = plan_campaign(shop, read_campaign(file), replace=replace, progress=progress)
    write_audit(shop, "campaign_planned", campaign=planned.campaign_id, people=len(planned.people))
    people = [{k: v for k, v in plain(p).items() if k != "held_out"} for p in planned.addressed]
    counts = {"size": len(people), "holdout_share": planned.holdout, "holdout": len(planned.held_out)}
    texts = planned.read_texts
    n_blocked = sum(bool(t.failures) for t in texts)
    n_held = sum(bool(t.warnings) and not t.failures for t in texts)
    lines = [
        f"{planned.campaign_id}: {_people(len(people))}, {len(planned.held_out):,} held out; "
        f"{planned.expected_conversions:.1f} expected to {aim(planned.converts)} within {planned.horizon_days} days",
        f"  left out: {counts_in_words(planned.excluded) or 'no one'}",
        f"  {count_text(len(texts), 'text')}, {n_held} held for a person, {n_blocked} blocked; "
        "see recllm campaign approve",
        *document_lines(plain({"notes": planned.notes, "group": planned.group})),
    ]
    return Answer({**plain(planned), **counts, "people": people}, lines)


def approve(
    *,
    file: OneFile,
    shop: Shop,
    by: Annotated[str, typer.Option(help="Name of the person who decides.")] = "",
    text: Annotated[list[str] | None, typer.Option("--text", "-t", help="A text's id; may be repeated.")],
    all_clear: Annotated[bool, typer.Option("--all", help="Approve every text that passes all checks.")] = False,
    reject: Annotated[bool, typer.Option(help="Reject the texts instead.")] = False,
    edit: Annotated[str | None, typer.Option(help="Another wording for one text; it is checked at once.")],
    why: Annotated[str, typer.Option(help="Reason of a rejection.")] = "",
) -> Answer:
    """Decide about texts; without a decision, list them with their state."""
    from recllm.market.campaigns.open_campaign import text_documents

    text_ids = text or []
    if edit is not None and (len(text_ids) != 1 or all_clear or reject):
        raise UsageError("--edit is a wording for one text: give one --text")
    if reject and not text_ids and not all_clear:
        raise UsageError("say which text: --text ID")
    campaign = _open_campaign(shop, file)
    if all_clear or text_ids:
        _decide(campaign, text_ids, by=by, all_clear=all_clear, reject=reject, edit=edit, why=why)
        write_audit(shop, "campaign_decided", campaign=campaign.plan.campaign_id, texts=len(text_ids) or "all")
    texts = text_documents(campaign)
    counts = dict(Counter(document["status"] for document in texts))
    lines = []
    for t in texts:
        head = f"{t['id']}  {t['status']}  {t['verdict']}  {t['channel']} {t['locale']}  {_people(t['people'])}"
        lines += ["", head, t["text"]]
        lines += [f"  {d['rule']}: {d['message']}" for d in (*t["failures"], *t["warnings"])]
    summary = ", ".join(f"{n} {status}" for status, n in counts.items())
    return Answer({"campaign_id": campaign.plan.campaign_id, "counts": counts, "texts": texts}, lines, [summary])


def export(
    file: OneFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for ID-CHANNEL.csv.")],
    shop: Shop,
    ids: Ids,
) -> Answer:
    """Write the approved texts for customers who agree now.
    Two lists show who is on only one of them."""
    from recllm.market.campaigns.export import export_campaign, written_lately
    from recllm.shop.workspace.figures import LISTS_TELL

    campaign = _open_campaign(shop, file)
    done = export_campaign(campaign, output, ids=ids_by_pseudonym(shop, ids))
    write_audit(shop, "campaign_exported", campaign=done.campaign_id, reached=done.reached)
    document = {"held" if name == "held_out" else name: value for name, value in plain(done).items()}
    del document["people"]
    notes = []
    if n_lately := written_lately(campaign):
        days = Figure(f"{campaign.file.limits.frequency_days:g}")
        addressed = Figure(len(campaign.plan.addressed))
        sentence = section("campaigns", "en")["lately"]
        notes.append(sentence.format(n=n_lately, all=addressed, days=days))
    if done.reached and ids is None:
        notes.append(PSEUDONYMS_TELL_NOBODY)
    if done.files:
        notes.append(LISTS_TELL)
    return Answer(document, notes=notes)


def send(
    file: OneFile,
    shop: Shop,
    addresses: Annotated[Path | None, typer.Option(help="File of customers with their ids and addresses.")] = None,
    test: Annotated[str, typer.Option(metavar="ADDRESS", help="Send one text to this address instead.")] = "",
    per_minute: Annotated[int, typer.Option(min=1, help="Most messages in a minute.")] = 600,
    unanswered: Annotated[
        str,
        typer.Option(metavar="sent|again|ID,...", help="Messages without an answer: all, none or these were sent."),
    ] = "",
) -> Answer:
    """Send the approved messages to customers who agree now, each once; run it again to go on."""
    from tqdm import tqdm

    from recllm.market.sending.addresses import campaign_addresses
    from recllm.market.sending.outbox import MessageState
    from recllm.market.sending.send import send_campaign, send_test, servers_of

    campaign = _open_campaign(shop, file)
    servers = servers_of(campaign)
    if test:
        text_id = send_test(campaign, servers, test)
        return Answer({"test": text_id}, [f"the text {text_id} was sent to {test}"])
    if addresses is None:
        raise UsageError("whom to send to: --addresses FILE with your customers' ids and e-mail addresses or phones")
    by_customer = campaign_addresses(campaign, servers, addresses)
    states = {"": None, "sent": MessageState.SENT, "again": MessageState.DEFERRED}
    answered = states.get(unanswered, unanswered.split(","))
    write_audit(shop, "campaign_sent", campaign=campaign.plan.campaign_id)  # before: some may leave though a run fails
    with tqdm(unit=" messages", disable=None) as bar:

        def progress(n_done: int, n_all: int) -> None:
            bar.total = n_all
            bar.update(n_done - bar.n)

        outcome = send_campaign(
            campaign, servers, by_customer, per_minute=per_minute, unanswered=answered, progress=progress
        )
    return Answer(outcome, notes=list(_left_to_do(outcome)))


def report(file: OneFile, shop: Shop) -> Answer:
    """Results: reached, converted, revenue, unsubscribed, and the difference to the control group."""
    from recllm.market.campaigns.outcome import campaign_outcome
    from recllm.shop.workspace.figures import FigureGate

    outcome = campaign_outcome(_open_campaign(shop, file, recheck=False), FigureGate(shop))
    groups = {
        "reached": outcome.reached,
        "held out": outcome.held_out,
        "the rest": outcome.other_people,
        "verdict": outcome.verdict,
        "extra sales": outcome.extra_sales,
    }
    document = plain(groups)
    for name in list(groups)[:3] if outcome.until <= outcome.start else ():
        document[name] = document[name] and {"people": document[name]["people"]}
    return Answer(outcome, [*document_lines(document), *outcome.words])


def _open_campaign(shop: Shop, file: Path, *, recheck: bool = True) -> OpenCampaign:
    from recllm.market.campaigns.file import read_campaign
    from recllm.market.campaigns.open_campaign import open_campaign

    return open_campaign(shop, read_campaign(file), recheck=recheck)


def _decide(
    campaign: OpenCampaign, text_ids: list[str], *, by: str, all_clear: bool, reject: bool, edit: str | None, why: str
) -> None:
    from recllm.market.campaigns.folder import TextStatus
    from recllm.market.campaigns.open_campaign import decide, enter_edit

    clock = datetime.now(UTC)
    if edit is not None:
        enter_edit(campaign, text_ids[0], edit, by=by, at=clock)
        return
    if all_clear:
        waiting = (TextStatus.DRAFT, TextStatus.EDITED)
        for name, state in campaign.states.items():
            if state.action in waiting and not (state.failures or state.warnings) and name not in text_ids:
                text_ids = [*text_ids, name]
    action = TextStatus.REJECTED if reject else TextStatus.APPROVED
    decide(campaign, action, text_ids, by=by, at=clock, why=why if reject else "")


def _left_to_do(outcome: SendOutcome) -> Iterator[str]:
    if outcome.unanswered:
        yield (
            f"{count_text(len(outcome.unanswered), 'message')} may have left, as the server's answer is missing, and "
            "will not be sent again. Look for their ids in its log, then give --unanswered with those that it has, or "
            "sent for all, or again for none: " + ", ".join(outcome.unanswered[:5])
        )
    if n_left := outcome.deferred + outcome.waiting:
        yield f"{count_text(n_left, 'message')} could not leave yet; run this again later"


def _people(n: int) -> str:
    return count_text(n, "person", "people")


Name = Annotated[str, typer.Argument(help="The experiment's name.")]


def start_experiment(
    name: Name,
    variant: Annotated[
        list[str],
        typer.Option(
            "--variant",
            help="NAME:WEIGHT, or NAME:WEIGHT:setting=value,... with model, personal, popularity_weight or "
            "explore_share; the first is the control.",
        ),
    ],
    metric: Annotated[str, typer.Option(help="clicks, conversions, dismissals, purchases or revenue.")] = "clicks",
    guard: Annotated[str, typer.Option(help="Guard metric that no variant may raise, or none.")] = "dismissals",
    *,
    shop: Shop,
) -> Answer:
    """Split customers at random between ways to make their recommendations, from now on."""
    from recllm.market.experiments.slates import Metric
    from recllm.market.experiments.slates import start_experiment as start

    try:
        compared_on, guarded = Metric(metric), None if guard == "none" else Metric(guard)
    except ValueError as error:
        raise UsageError(f"{error}; metrics are {', '.join(Metric)}") from None
    variants = dict(map(variant_of, variant))
    if len(variants) < len(variant):
        raise UsageError("two variants have one name; give each its own")
    experiment = start(shop, name, variants, metric=compared_on, guard=guarded)
    write_audit(shop, "experiment_started", experiment=name)
    return Answer(experiment.document())


def variant_of(text: str) -> tuple[str, tuple[float, Any]]:
    from recllm.market.experiments.effect import Treatment

    name, _, weighted = text.partition(":")
    weight, _, settings = weighted.partition(":")
    values: dict[str, Any] = {}
    try:
        for pair in filter(None, settings.split(",")):
            setting, _, value = pair.partition("=")
            is_flag = value in ("true", "false")
            values[setting] = value if setting == "model" else value == "true" if is_flag else float(value)
        return name, (float(weight), Treatment(**values))
    except ValueError:
        raise UsageError(f"--variant {text!r}: give NAME:WEIGHT or NAME:WEIGHT:setting=value, e.g. new:0.5") from None


def report_experiment(
    *,
    name: Annotated[str | None, typer.Argument(help="The experiment's name; a list of all when left out.")],
    model: Annotated[
        str | None,
        typer.Option(help="Instead: what this version would have brought, from explored positions."),
    ],
    metric: Annotated[str, typer.Option(help="Of --model: clicks, conversions or dismissals.")] = "clicks",
    stop: Annotated[bool, typer.Option("--stop", help="End it: all customers get the active model again.")] = False,
    shop: Shop,
) -> Answer:
    """Variants compared with the control, with intervals that hold at every look."""
    from recllm.market.experiments.slates import Metric, experiment_outcome, list_experiments, stop_experiment

    if stop and name is not None:
        stored = stop_experiment(shop, name)
        write_audit(shop, "experiment_stopped", experiment=name)
        return Answer(stored.document())
    if model is None and name is not None:
        return Answer(experiment_outcome(shop, name))
    if model is None:
        return Answer({"experiments": [stored.document() for stored in list_experiments(shop)]})
    from tqdm import tqdm

    from recllm.market.experiments.off_policy import estimate_model
    from recllm.recommend.recommender.saved_model import load_model
    from recllm.recommend.recommender.shop_recommender import model_encoder

    if metric not in set(Metric):
        raise UsageError(f"--metric is one of {', '.join(Metric)}, not {metric!r}")
    with tqdm(unit=" slates", disable=None) as bar:
        estimated = load_model(shop.models_dir, model)
        outcome = estimate_model(
            shop,
            estimated,
            model_encoder(shop, estimated),
            metric=Metric(metric),
            progress=lambda n: bar.update(n - bar.n) and None,
        )
    return Answer(outcome)
