"""The page of `recllm start` for whoever sells, and its lines on a terminal, in the language and domain of a locale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from recllm.charts import Bar, bar_chart
from recllm.console.words import Words, language_of
from recllm.report.page import picture, render, words
from recllm.text.domains import domain_of
from recllm.text.templates import Prompts

LIST_LENGTH = 20
METRIC = f"ndcg@{LIST_LENGTH}"
OURS = "recllm"
FEWEST_MEASURED = 10
"""Of fewer people a chart would show chance."""


@dataclass(frozen=True, slots=True)
class StartWords:
    """The sentences of this page, with the words of a domain in them, and numbers as its language writes them."""

    locale: str
    """As `Workspace.locale` gives it: "zh@media"."""
    console: Words
    """For what the console says too: tables, reasons of refused rows, numbers, money."""

    @classmethod
    def of(cls, locale: str, currency: str | None = None, timezone: str | None = None) -> StartWords:
        return cls(locale, Words(language_of(locale), currency, timezone))

    def say(self, name: str, /, **values: object) -> str:
        """A sentence with its values, and the domain's words, filled in."""
        texts = {
            key: self.console.number(value) if isinstance(value, int | float) else value
            for key, value in values.items()
        }
        domain = Prompts.load().domain(domain_of(self.locale)).words[self.console.language]
        return words("start", self.locale)[name].format_map({**domain, **texts})

    def code(self, code: str) -> str:
        """What a code of the ingest says, "" for one without words."""
        return self.console.say(f"code.{code}") if self.console.has(f"code.{code}") else ""

    def problem(self, part: str) -> str:
        """What could not be done yet: "model", "evaluation" or "copy"."""
        return self.say(f"problem_{part}")

    def system(self, name: str) -> str:
        return self.say(f"system_{name.replace('-', '_')}")


def terminal_lines(record: Mapping[str, Any]) -> list[str]:
    """What the command says at its end."""
    page_words = StartWords.of(record["locale"])
    return [
        *(page_words.say("is_kind", file=file["file"], kind=file["title"]) for file in record["files"]),
        *(page_words.say("not_yet", problem=page_words.problem(part)) for part in record["problems"]),
        *(f"  {problem}" for problem in record["problems"].values()),
        *(f"{step['text']}  {step['command']}" for step in record["next"]),
        page_words.say("done", seconds=record["seconds"], report=record["report"]),
    ]


def start_page(record: Mapping[str, Any]) -> str:
    """The page of the record that `recllm start --json` prints."""
    page_words = StartWords.of(record["locale"], record["currency"], record["timezone"])
    evaluation = record["evaluation"]
    return render(
        "start.html.j2",
        record=record,
        page_words=page_words,
        say=page_words.say,
        number=page_words.console.number,
        percent=page_words.console.percent,
        money=page_words.console.money,
        day=lambda text: page_words.console.day(datetime.fromisoformat(text)),
        moment=lambda text: page_words.console.moment(datetime.fromisoformat(text)),
        tag=page_words.console.tag,
        shares=lambda shares: _share_chart(shares, page_words),
        charts=[] if evaluation is None else _metric_charts(evaluation, page_words),
        verdict="" if evaluation is None else verdict(evaluation, page_words),
        gaps={} if evaluation is None else _gaps(evaluation),
        metric=METRIC,
        ours=OURS,
        list_length=LIST_LENGTH,
        steps=_step_chart(record["timings"], page_words),
    )


def verdict(evaluation: Mapping[str, Any], page_words: StartWords) -> str:
    """How the lists did beside the best of the simple ways, in a sentence: better or worse only where the interval of
    the difference leaves zero out."""
    peers = {name: slices["ALL"][METRIC] for name, slices in evaluation["systems"].items() if name != OURS}
    best = max(peers, key=lambda name: peers[name], default=None)
    gap = _gaps(evaluation).get(best or "")
    if best is None or gap is None:
        return ""
    outcome = "better" if gap["low"] > 0 else "worse" if gap["high"] < 0 else "same"
    return page_words.say(f"verdict_{outcome}", ours=OURS, peer=page_words.system(best))


def _gaps(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Peer -> how far ahead of it the lists are, with the interval."""
    return {gap["peer"]: gap for gap in evaluation["differences"] if (gap["slice"], gap["metric"]) == ("ALL", METRIC)}


def _metric_charts(evaluation: Mapping[str, Any], page_words: StartWords) -> list[tuple[str, Markup]]:
    charts = []
    for group, title in (("ALL", "chart"), ("NEW", "chart_new")):
        n_people = evaluation["slices"].get(group, {}).get("users", 0)
        values = {name: s[group][METRIC] for name, s in evaluation["systems"].items() if METRIC in s.get(group, {})}
        bars = [
            Bar(page_words.system(name), value, page_words.console.number(value, 2), strong=name == OURS)
            for name, value in sorted(values.items(), key=lambda pair: -pair[1])
        ]
        if bars and n_people >= FEWEST_MEASURED:
            heading = page_words.say(title, n=n_people)
            charts.append((heading, picture(bar_chart(bars, title=heading))))
    return charts


def _share_chart(shares: Sequence[Mapping[str, Any]], page_words: StartWords) -> Markup:
    bars = [Bar(share["name"][:28], share["share"], page_words.console.percent(share["share"])) for share in shares]
    return picture(bar_chart(bars, title=page_words.say("favourites"), width=520))


def _step_chart(timings: Sequence[Mapping[str, Any]], page_words: StartWords) -> Markup:
    bars = [
        Bar(
            timing["step"],
            timing["seconds"],
            page_words.say("seconds", n=page_words.console.number(timing["seconds"], 1)),
        )
        for timing in timings
    ]
    return picture(bar_chart(bars, title=page_words.say("time_head")))
