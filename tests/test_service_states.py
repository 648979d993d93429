"""The service against a model of it: whatever happens in whatever order, with restarts in between, nothing that was
acknowledged is lost, and nobody gets what they refused, dismissed or may not be shown."""

from __future__ import annotations

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
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from service_world import serving

from recllm.base.documents import plain
from recllm.recommend.recommender.shop_recommender import open_recommender
from recllm.shop.workspace.workspace import Workspace

PEOPLE = ("u00", "u01", "u02", "newcomer", "guest 字")
SESSIONS = ("visit-1", "visit-2")
ITEMS = ("tea-0", "tea-1", "tools-0", "tools-1")
ACTIONS = ("view", "click", "cart", "purchase", "dismiss")
PURPOSES = ("personalisation", "analytics", "email")

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


class ServiceMachine(RuleBasedStateMachine):
    """One shop over HTTP, and beside it what was acknowledged."""

    template: Path
    """A trained shop that is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp()) / "shop"
        shutil.copytree(self.template, self.folder)
        self.people: dict[str, Person] = {}
        self.visits: dict[str, Person] = {}
        """Sessions that were not joined to anybody."""
        self.owners: dict[str, str] = {}
        """Session -> the person to whom it was joined."""
        self.erased: set[tuple[str, str]] = set()
        """People who were erased, and their sessions: nothing comes back of them."""
        self.number = 0

    # --- the service ------------------------------------------------------------------------------------------------

    @initialize()
    def open(self) -> None:
        self.running = ExitStack()
        self.client = self.running.enter_context(serving(self.folder))
        if not self.people:
            with Workspace.open(self.folder) as shop:
                self.items = set(shop.gate().catalogue()["item_id"])
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

    def present(self) -> datetime:
        return datetime.fromisoformat(self.slate({"k": 1})["as_of"])

    def slate(self, body: dict[str, Any]) -> Any:
        return self.ask("POST", "/v1/recommend", body)

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
        named = {"event_id": f"e-{self.number}"} if is_named or at is None else {}
        event = {visitor[0]: visitor[1], **content} | named
        account = self.ask("POST", "/v1/events", {"events": [event]})
        if visitor in self.erased:
            assert account == {"accepted": 0, "duplicates": 0, "conflicts": [], "rejected": [0]}
            return
        assert account == {"accepted": 1, "duplicates": 0, "conflicts": [], "rejected": []}
        self.note(visitor, item, action, at or now)

    def note(self, visitor: tuple[str, str], item: str, action: str, at: datetime) -> None:
        person = self.of_visitor(visitor, new=True)
        assert person is not None
        person.events[item, action] += 1
        person.acts.setdefault(item, {}).setdefault(action, []).append(at)

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

    # --- what is asked ----------------------------------------------------------------------------------------------

    @rule(
        visitor=visitors,
        explain=st.booleans(),
        exclude=st.sets(st.sampled_from(ITEMS), max_size=2),
        is_recorded=st.booleans(),
    )
    def look(self, visitor: tuple[str, str], explain: bool, exclude: set[str], is_recorded: bool) -> None:
        """A slate of everything that may be shown has exactly that."""
        person = self.of_visitor(visitor)
        body = {visitor[0]: visitor[1], "k": 100, "exclude": sorted(exclude), "explain": explain}
        answer = self.slate(body | {"record": is_recorded})
        shown = [item["item_id"] for item in answer["items"]]
        allowed = self.items - exclude
        assert len(shown) == len(set(shown)) and bool(answer["model_version"]) is (answer["status"] == "personal")
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
