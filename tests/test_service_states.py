"""The service against a model of it: whatever happens in whatever order, with restarts in between, nothing that was
acknowledged is lost, and nobody gets what they refused, dismissed or may not be shown."""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from service_world import publish_again, serving
from waiting import until

from recllm.base.documents import plain
from recllm.recommend.recommender.registry import current, promote, rollback, versions
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.workspace import Workspace

PEOPLE = ("u00", "u01", "u02", "newcomer", "guest 字")
SESSIONS = ("visit-1", "visit-2")
ITEMS = ("tea-0", "tea-1", "tools-0", "tools-1", "new-0", "new-1")
"""Items that change; the last two are not in the catalogue at first."""
ACTIONS = ("view", "click", "cart", "purchase", "dismiss")
PURPOSES = ("personalisation", "analytics", "email")
COUNTED = ("accepted", "duplicates", "conflicts", "rejected")

visitors = st.sampled_from([("user_id", name) for name in PEOPLE] + [("session_id", name) for name in SESSIONS])


@dataclass
class Person:
    """What the service has to know of a person, or of a session that was not joined to one."""

    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(item, action) -> events."""
    acts: dict[str, dict[str, list[datetime]]] = field(default_factory=dict)
    """Item -> action -> times, of what was done since the beginning."""
    decisions: dict[str, list[tuple[datetime, bool]]] = field(default_factory=dict)
    basics: dict[str, str] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)

    def agrees(self, purpose: str) -> bool:
        """By the latest decision; of one instant the refusal counts."""
        decisions = self.decisions.get(purpose, [])
        return not decisions or max(decisions, key=lambda decision: (decision[0], not decision[1]))[1]

    def dismissed(self) -> set[str]:
        """Items that were dismissed and not bought since."""
        never = datetime.min.replace(tzinfo=UTC)
        return {
            item
            for item, acts in self.acts.items()
            if acts.get("dismiss") and max(acts["dismiss"]) >= max(acts.get("purchase", [never]))
        }

    def take(self, other: Person) -> None:
        """The events of a session become this person's."""
        self.events += other.events
        for item, acts in other.acts.items():
            for action, times in acts.items():
                self.acts.setdefault(item, {}).setdefault(action, []).extend(times)


@dataclass
class Offer:
    """An item of the catalogue."""

    title: str
    available: bool = True
    until: datetime | None = None


class ServiceMachine(RuleBasedStateMachine):
    """One shop over HTTP, and beside it what was acknowledged."""

    template: Path
    """A trained shop that is copied, with two versions of its model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "shop"
        shutil.copytree(self.template, self.folder)
        self.people: dict[str, Person] = {}
        self.visits: dict[str, Person] = {}
        """Sessions that were not joined to anybody."""
        self.owners: dict[str, str] = {}
        """Session -> the person to whom it was joined."""
        self.events: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {}
        """Event id -> who did it, and its content."""
        self.erased: set[tuple[str, str]] = set()
        """People who were erased, and their sessions: nothing comes back of them."""
        self.counts: Counter[str] = Counter()
        self.slates: Counter[str] = Counter()
        """Counted since the service was opened, as /metrics does."""
        self.number = 0

    # --- the service ------------------------------------------------------------------------------------------------

    @initialize()
    def open(self) -> None:
        self.running = ExitStack()
        self.client = self.running.enter_context(serving(self.folder))
        self.counts, self.slates = Counter(), Counter()
        if not self.people:
            with Workspace.open(self.folder) as shop:
                self.items = {row["item_id"]: Offer(row["title"]) for row in shop.store().items().to_dicts()}
            for name in PEOPLE[:3]:
                export = self.ask("POST", "/v1/users/export", {"user_id": name})
                events = Counter((event["item_id"], event["event"]) for event in export["events"])
                self.people[name] = Person(events, basics=export["basics"])

    def close(self) -> None:
        self.running.close()

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.close()
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    @rule()
    def restart(self) -> None:
        self.close()
        self.open()

    def answer(self, verb: str, path: str, body: Any = None) -> Any:
        answer = self.client.request(verb, path, json=body)
        assert answer.status_code < 500, answer.text
        return answer

    def ask(self, verb: str, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.answer(verb, path, body)
        assert answer.status_code == status, (path, body, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    # --- who and what -----------------------------------------------------------------------------------------------

    def of_visitor(self, visitor: tuple[str, str], *, new: bool = False) -> Person | None:
        """Whose history a visitor has. new: make somebody who is not known yet."""
        kind, name = visitor
        if kind == "session_id":
            if name in self.owners:
                return self.people[self.owners[name]]
            return self.visits.setdefault(name, Person()) if new else self.visits.get(name)
        return self.people.setdefault(name, Person()) if new else self.people.get(name)

    def on_offer(self, as_of: datetime) -> set[str]:
        return {
            name
            for name, offer in self.items.items()
            if offer.available and (offer.until is None or offer.until > as_of)
        }

    def present(self) -> datetime:
        return datetime.fromisoformat(self.slate({"k": 1})["as_of"])

    def slate(self, body: dict[str, Any]) -> Any:
        answer = self.ask("POST", "/v1/recommend", body)
        self.slates[answer["status"]] += 1
        return answer

    # --- what is sent -----------------------------------------------------------------------------------------------

    @rule(
        visitor=visitors,
        item=st.sampled_from(ITEMS),
        action=st.sampled_from(ACTIONS),
        minutes=st.sampled_from([None, -500_000, -3, 0, 2, 90]),
        is_named=st.booleans(),
    )
    def send_event(self, visitor: tuple[str, str], item: str, action: str, minutes: int | None, is_named: bool) -> None:
        """A new event, with or without a time, which may move the present of the replayed log on."""
        self.number += 1
        now = self.present()
        at = None if minutes is None else now + timedelta(minutes=minutes, microseconds=self.number)
        content = {"item_id": item, "event": action} | ({} if at is None else {"timestamp": at.isoformat()})
        event_id = f"e-{self.number}"
        event = {visitor[0]: visitor[1], **content} | ({"event_id": event_id} if is_named or at is None else {})
        account = self.ask("POST", "/v1/events", {"events": [event]})
        if visitor in self.erased:
            assert account == {"accepted": 0, "duplicates": 0, "conflicts": [], "rejected": [0]}
            self.counts["rejected"] += 1
            return
        assert account == {"accepted": 1, "duplicates": 0, "conflicts": [], "rejected": []}
        self.counts["accepted"] += 1
        if "event_id" in event:
            self.events[event_id] = visitor, content
        self.note(visitor, item, action, at or now)

    def note(self, visitor: tuple[str, str], item: str, action: str, at: datetime) -> None:
        person = self.of_visitor(visitor, new=True)
        assert person is not None
        person.events[item, action] += 1
        person.acts.setdefault(item, {}).setdefault(action, []).append(at)

    @precondition(lambda self: self.events)
    @rule(data=st.data(), is_changed=st.booleans(), item=st.sampled_from(ITEMS))
    def send_event_again(self, data: st.DataObject, is_changed: bool, item: str) -> None:
        """A known id with the same content is a duplicate, with another one a conflict that changes nothing; beside it
        in the same request a time ahead of the clock is rejected."""
        event_id = data.draw(st.sampled_from(sorted(self.events)))
        visitor, content = self.events[event_id]
        event = {"event_id": event_id, visitor[0]: visitor[1], **content}
        is_changed = is_changed and item != content["item_id"]
        event |= {"item_id": item} if is_changed else {}
        late = {"user_id": PEOPLE[0], "item_id": item, "event": "view"}
        late |= {"timestamp": (datetime.now(UTC) + timedelta(days=2)).isoformat()}
        account = self.ask("POST", "/v1/events", {"events": [late, event]})
        # what a joined session did is the person's, and so another event than the session's with the same id
        expected = {"accepted": 0, "duplicates": int(not is_changed), "conflicts": [1] * is_changed, "rejected": [0]}
        is_joined = visitor[0] == "session_id" and visitor[1] in self.owners
        if not is_joined:
            assert account == expected
        assert account["accepted"] == 0 and account["rejected"] == [0]
        for outcome in ("duplicates", "conflicts", "rejected"):
            self.counts[outcome] += account[outcome] if outcome == "duplicates" else len(account[outcome])

    @rule(
        name=st.sampled_from(PEOPLE),
        purpose=st.sampled_from(PURPOSES),
        granted=st.booleans(),
        days=st.sampled_from([None, None, 1, 400]),
    )
    def decide(self, name: str, purpose: str, granted: bool, days: int | None) -> None:
        """Consent given or withdrawn, now or told of late."""
        before = datetime.now(UTC)
        at = None if days is None else before - timedelta(days=days)
        decision = {"user_id": name, "purpose": purpose, "granted": granted}
        decision |= {} if at is None else {"timestamp": at.isoformat()}
        account = self.ask("POST", "/v1/consent", {"consent": [decision]})
        is_erased = ("user_id", name) in self.erased
        assert (account["accepted"], account["erased"]) == (int(not is_erased), int(is_erased))
        if is_erased:
            return
        person = self.of_visitor(("user_id", name), new=True)
        assert person is not None
        person.decisions.setdefault(purpose, []).append((at or before, granted))
        self.look(("user_id", name), explain=True, exclude=set(), is_recorded=False)

    @rule(name=st.sampled_from(PEOPLE), age=st.sampled_from(["18-24", "35-44", "65+"]))
    def describe_person(self, name: str, age: str) -> None:
        basics = {"age": age}
        person = self.of_visitor(("user_id", name))
        account = self.ask("POST", "/v1/users", {"users": [{"user_id": name, "basics": basics}]})
        is_same = person is not None and person.basics == basics
        if ("user_id", name) in self.erased:
            assert account == {"accepted": 0, "duplicates": 0, "erased": 1}
            return
        assert account == {"accepted": int(not is_same), "duplicates": int(is_same), "erased": 0}
        person = self.of_visitor(("user_id", name), new=True)
        assert person is not None
        person.basics = basics

    @rule(name=st.sampled_from(PEOPLE))
    def erase(self, name: str) -> None:
        person = self.people.pop(name, None)
        answer = self.answer("POST", "/v1/users/erase", {"user_id": name})
        assert answer.status_code == (404 if person is None else 200), answer.text
        self.erased.add(("user_id", name))
        if person is None:
            return
        rows = answer.json()["rows"]
        assert rows["events"] == person.events.total() and rows["sessions"] == len(person.sessions)
        assert rows["consent"] == sum(len(decisions) for decisions in person.decisions.values())
        gone = {("user_id", name), *(("session_id", session) for session in person.sessions)}
        self.events = {key: event for key, event in self.events.items() if event[0] not in gone}
        self.owners = {session: owner for session, owner in self.owners.items() if owner != name}
        self.erased |= gone
        for visitor in gone:
            assert self.slate({visitor[0]: visitor[1], "k": 3})["status"] == "unknown_user"
        for path in ("profile", "export"):
            self.ask("POST", f"/v1/users/{path}", {"user_id": name}, status=404)
        self.ask("POST", "/v1/explain", {"user_id": name, "item_id": "tools-9"}, status=404)
        self.ask("POST", "/v1/users/erase", {"user_id": name}, status=404)

    @rule(session=st.sampled_from(SESSIONS), name=st.sampled_from(PEOPLE))
    def join(self, session: str, name: str) -> None:
        owner, person = self.owners.get(session), self.people.get(name)
        answer = self.answer("POST", "/v1/sessions/join", {"session_id": session, "user_id": name})
        if self.erased & {("session_id", session), ("user_id", name)}:
            assert answer.json() == {"joined": False, "events": 0}
            return
        if owner not in (None, name):
            assert answer.status_code == 409
            return
        assert answer.status_code == 200, answer.text
        if owner is None and person is not None and not person.agrees("personalisation"):
            assert answer.json() == {"joined": False, "events": 0}
            visit = self.visits.setdefault(session, Person())
            visit.decisions.setdefault("personalisation", []).append((datetime.now(UTC), False))
            return
        visit = self.visits.pop(session, Person())
        assert answer.json() == {"joined": True, "events": visit.events.total()}
        person = self.people.setdefault(name, Person())
        person.take(visit)
        person.sessions.add(session)
        self.owners[session] = name

    @rule(
        item=st.sampled_from(ITEMS),
        number=st.integers(0, 3),
        available=st.booleans(),
        minutes=st.sampled_from([None, None, -10, 0, 1, 60]),
    )
    def offer(self, item: str, number: int, available: bool, minutes: int | None) -> None:
        """An item comes, changes, leaves the shelf, or has an end, which may be over."""
        ends = None if minutes is None else self.present() + timedelta(minutes=minutes)
        offer = Offer(f"Green tea called {item} {number}", available, ends)
        body = {"item_id": item, "title": offer.title, "category": "food > tea", "price": 3 + number}
        body |= {"available": available} | ({} if ends is None else {"available_until": ends.isoformat()})
        account = self.ask("POST", "/v1/items", {"items": [body]})
        assert account["accepted"] + account["duplicates"] == 1
        self.items[item] = offer
        self.look(("user_id", PEOPLE[1]), explain=False, exclude=set(), is_recorded=False)

    @rule(item=st.sampled_from(ITEMS))
    def remove_item(self, item: str) -> None:
        self.ask("DELETE", f"/v1/items/{item}", status=204 if item in self.items else 404)
        self.items.pop(item, None)
        self.ask("POST", "/v1/explain", {"user_id": PEOPLE[1], "item_id": item}, status=self.explain_status(item))
        self.ask("GET", f"/v1/items/{item}/similar", status=404)

    def explain_status(self, item: str, name: str = PEOPLE[1]) -> int:
        person = self.people.get(name)
        if person is not None and not person.agrees("personalisation"):
            return 403
        return 404 if item not in self.items else 200

    # --- what is asked ----------------------------------------------------------------------------------------------

    @rule(
        visitor=visitors,
        explain=st.booleans(),
        exclude=st.sets(st.sampled_from(ITEMS), max_size=2),
        is_recorded=st.booleans(),
    )
    def look(self, visitor: tuple[str, str], explain: bool, exclude: set[str], is_recorded: bool) -> None:
        """A slate of everything that may be shown has exactly that."""
        person, exclude = self.of_visitor(visitor), exclude & set(self.items)
        body = {visitor[0]: visitor[1], "k": 100, "exclude": sorted(exclude), "explain": explain}
        answer = self.slate(body | {"record": is_recorded})
        shown = [item["item_id"] for item in answer["items"]]
        allowed = self.on_offer(datetime.fromisoformat(answer["as_of"])) - exclude
        assert len(shown) == len(set(shown)) and answer["model_version"] == self.version_of(answer)
        assert [item["rank"] for item in answer["items"]] == list(range(1, len(shown) + 1))
        reasons = {reason["evidence_id"] for item in answer["items"] for reason in item["reasons"]}
        if person is not None and not person.agrees("personalisation"):
            assert answer["status"] == "no_consent" and reasons <= {"general"}
            assert shown == [item["item_id"] for item in self.slate({"k": 100, "exclude": sorted(exclude)})["items"]]
        elif person is None:
            assert answer["status"] == "unknown_user" and reasons <= {"general"}
        else:
            has_done = any(n and action != "shown" for (_, action), n in person.events.items())
            assert answer["status"] in {"personal", *(() if has_done else ("unknown_user",))}
        if answer["status"] == "personal" and person is not None:
            allowed -= person.dismissed()
        assert set(shown) == allowed
        is_kept = visitor not in self.erased and (person is None or person.agrees("analytics"))
        if is_recorded and shown and is_kept:
            for item in shown:
                self.note(visitor, item, "shown", datetime.fromisoformat(answer["as_of"]))

    @rule(visitor=visitors, query=st.sampled_from(["green tea", "hammer", "new-0", "nothing like it"]))
    def search(self, visitor: tuple[str, str], query: str) -> None:
        answer = self.ask("POST", "/v1/search", {visitor[0]: visitor[1], "query": query, "k": 50})
        found, person = {item["item_id"] for item in answer["items"]}, self.of_visitor(visitor)
        assert found <= self.on_offer(datetime.fromisoformat(answer["as_of"]))
        assert answer["model_version"] == self.version_of(answer)
        if person is not None and not person.agrees("personalisation"):
            assert answer["status"] == "no_consent"
            assert all(item["probability"] is None for item in answer["items"])
        elif person is not None and answer["status"] == "personal":
            assert not found & person.dismissed()

    @rule(name=st.sampled_from(PEOPLE), item=st.sampled_from(ITEMS))
    def ask_about_one_item(self, name: str, item: str) -> None:
        answer = self.answer("POST", "/v1/explain", {"user_id": name, "item_id": item})
        person = self.people.get(name)
        if person is not None and not person.agrees("personalisation"):
            assert answer.status_code == 403
        elif item not in self.items or person is None:
            assert answer.status_code == 404
        elif name in PEOPLE[:3] and person.events["tools-9", "purchase"]:
            assert answer.status_code == 200
        answer = self.answer("GET", f"/v1/items/{item}/similar?k=100")
        assert answer.status_code == (200 if item in self.items else 404), answer.text
        if item in self.items:
            near = {neighbour["item_id"] for neighbour in answer.json()["items"]}
            assert near == self.on_offer(self.present()) - {item}

    @rule(name=st.sampled_from(PEOPLE))
    def read_what_is_stored(self, name: str) -> None:
        """The export and the profile have what was acknowledged, and nothing more."""
        person = self.people.get(name)
        profile = self.answer("POST", "/v1/users/profile", {"user_id": name})
        export = self.answer("POST", "/v1/users/export", {"user_id": name})
        if person is None:
            assert (profile.status_code, export.status_code) == (404, 404)
            return
        assert profile.status_code == (200 if person.agrees("personalisation") else 403)
        document = export.json()
        events = Counter((event["item_id"], event["event"]) for event in document["events"])
        assert events == +person.events and document["basics"] == person.basics
        assert len(document["sessions"]) == len(person.sessions)
        decisions = Counter((decision["purpose"], decision["granted"]) for decision in document["consent"])
        expected = [(purpose, granted) for purpose, made in person.decisions.items() for _, granted in made]
        assert decisions == Counter(expected)

    @rule(visitor=visitors)
    def compare_with_a_fresh_opening(self, visitor: tuple[str, str]) -> None:
        """What is kept in memory answers as what is opened anew."""
        name = visitor[1] if visitor[0] == "user_id" else PEOPLE[2]
        answer = self.slate({"user_id": name, "k": 100})
        with Workspace.open(self.folder) as shop:
            (slate,) = open_recommender(shop).recommend(name, k=100, explain=False)
        volatile = {"request_id": "", "as_of": ""}
        assert plain(slate) | volatile == answer | volatile

    # --- models -----------------------------------------------------------------------------------------------------

    def version(self) -> str:
        version = current(self.folder / "models")
        assert version is not None
        return version

    def version_of(self, answer: dict[str, Any]) -> str | None:
        """What an answer has to name: only what a model ordered has its version."""
        return self.version() if answer["status"] == "personal" else None

    def serves(self, version: str) -> None:
        assert version == self.version()
        until(lambda: self.client.get("/readyz").json()["shops"]["shop"]["model_version"] == version)

    @precondition(lambda self: len(versions(self.folder / "models")) < 5)
    @rule()
    def publish(self) -> None:
        with Workspace.open(self.folder) as shop:
            version = publish_again(shop)
        self.serves(version)

    @rule(data=st.data())
    def promote_a_version(self, data: st.DataObject) -> None:
        names = [manifest.version for manifest in versions(self.folder / "models")]
        self.serves(
            promote(self.folder / "models", data.draw(st.sampled_from(range(len(names))).map(names.__getitem__)))
        )

    @precondition(lambda self: versions(self.folder / "models")[0].version != self.version())
    @rule()
    def roll_back(self) -> None:
        self.serves(rollback(self.folder / "models"))

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_figures_agree(self) -> None:
        if not hasattr(self, "client"):
            return
        text = self.client.get("/metrics").text
        of_events = {outcome: figure(text, f'recllm_events_total{{outcome="{outcome}"}}') for outcome in COUNTED}
        assert of_events == {outcome: self.counts[outcome] for outcome in COUNTED}
        of_slates = dict(re.findall(r'^recllm_slates_total\{status="(\w+)"\} (\S+)$', text, re.MULTILINE))
        assert {status: float(number) for status, number in of_slates.items()} == self.slates
        assert figure(text, "recllm_ready") == 1


def figure(text: str, name: str) -> float:
    """A value in the format of Prometheus; 0 for one that was not counted yet."""
    line = next((line for line in text.splitlines() if line.startswith(f"{name} ")), "0")
    value = float(line.split()[-1])
    assert math.isfinite(value)
    return value


def test_the_service_agrees_with_its_model(service_shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServiceMachine, "template", service_shop, raising=False)
    limits = settings(
        max_examples=3,
        stateful_step_count=25,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(ServiceMachine, settings=limits)
