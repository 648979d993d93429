"""The page of `recllm start` and its lines on a terminal, in the language and domain of a locale."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from recllm.base.words.sentences import language_of
from recllm.base.words.words import Words
from recllm.text.domains import domain_of
from recllm.text.templates import Prompts

LIST_LENGTH = 20
METRIC = f"ndcg@{LIST_LENGTH}"
OURS = "recllm"
FEWEST_MEASURED = 10
"""Minimum number of people for bars."""


def words_of(locale: str, currency: str | None = None, timezone: str | None = None) -> Words:
    """The words for a locale of `Workspace.locale`: "zh@media" is Chinese with a media service's words."""
    name = language_of(locale)
    return Words(name, currency, timezone, Prompts.load().domain(domain_of(locale)).words[name])


def terminal_lines(record: Mapping[str, Any]) -> list[str]:
    """The last lines of the command: what the files are, what is missing and what mends it, and what can be sent."""
    page_words, campaign = words_of(record["locale"]), record["campaign"]
    lines = []
    for file in record["files"]:
        lines.append(page_words.say("start.is_kind", file=file["file"], kind=file["title"]))
        lines += [f"  {'; '.join(file['columns'])}"] if file["columns"] else []
    for name, problem in record["problems"].items():
        lines.append(page_words.say("start.not_yet", problem=page_words.say(f"start.problem.{name}")))
        lines += [f"  {text}" for text in dict.fromkeys((problem, page_words.say(f"start.mend.{name}")))]
    if campaign is not None:
        lines.append(page_words.say("start.sendable", n=campaign["sendable"], people=campaign["messages"]))
        lines.append(page_words.say("start.drafted", goal=campaign["goal"], workspace=record["workspace"]))
    return [*lines, page_words.say("start.done", seconds=record["seconds"], report=record["report"])]


def start_page(record: Mapping[str, Any]) -> str:
    """The page of the record that `recllm start --json` prints: one file with no script and nothing from elsewhere."""
    page_words = words_of(record["locale"], record["currency"], record["timezone"])
    evaluation = record["evaluation"]
    environment = Environment(
        loader=PackageLoader("recllm.doors.start", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("start.html.j2").render(
        record=record,
        say=page_words.say,
        label=page_words.label,
        number=page_words.number,
        percent=page_words.percent,
        money=page_words.money,
        day=lambda text: page_words.day(datetime.fromisoformat(text)),
        moment=lambda text: page_words.moment(datetime.fromisoformat(text)),
        tag=page_words.tag,
        bars=[] if evaluation is None else _bars(evaluation),
        verdict="" if evaluation is None else verdict(evaluation, page_words),
        gaps={} if evaluation is None else _gaps(evaluation),
        metric=METRIC,
        ours=OURS,
        list_length=LIST_LENGTH,
    )


def verdict(evaluation: Mapping[str, Any], page_words: Words) -> str:
    """The lists compared with the best simple way, in a sentence: better or worse only where the interval of the
    difference excludes zero."""
    peers = {name: slices["ALL"][METRIC] for name, slices in evaluation["systems"].items() if name != OURS}
    best = max(peers, key=lambda name: peers[name], default=None)
    gap = _gaps(evaluation).get(best or "")
    if best is None or gap is None:
        return ""
    outcome = "better" if gap["low"] > 0 else "worse" if gap["high"] < 0 else "same"
    return page_words.say(f"start.verdict_{outcome}", ours=OURS, peer=page_words.say(f"start.way.{best}"))


def _gaps(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Peer -> difference to it, with the interval."""
    return {gap["peer"]: gap for gap in evaluation["differences"] if (gap["slice"], gap["metric"]) == ("ALL", METRIC)}


def _bars(evaluation: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Systems with their figure for all people, the best first; none of too few people."""
    figures = [(name, slices["ALL"][METRIC]) for name, slices in evaluation["systems"].items()]
    return sorted(figures, key=lambda pair: -pair[1]) if evaluation["slices"]["ALL"]["users"] >= FEWEST_MEASURED else []
