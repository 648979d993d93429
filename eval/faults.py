"""What killed processes and databases leave behind:  python eval/faults.py -o eval/results/faults.json

For each operation a child process works on a tiny shop and acknowledges every step on a pipe. It is killed with SIGKILL
at a moment drawn from the measured length of a step, so that most kills land inside one. Then the shop is opened again
and looked at: what was acknowledged is there, whatever was being done is done or not, never half, and doing it again
completes it. On PostgreSQL (`pg_ctl` is needed, see `tests/postgres_server.py`) the server's process behind the child
is killed as well, and the server is stopped in the middle and started again; then the child has to be told by a
`recllm` error, and goes on.

A loss is a sentence; the figures are counts of kills, of those that landed inside a step, and of losses.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent / "tests")]  # the server of the tests

import sqlalchemy as sa  # noqa: E402
from service_world import LAST_DAY, PEOPLE, build_shop  # noqa: E402

from recllm.base.errors import NothingToDo, RecllmError, StoreError, UnknownIdError, UsageError  # noqa: E402
from recllm.base.schema import Purpose  # noqa: E402
from recllm.doors.privacy.backup import back_up, restore  # noqa: E402
from recllm.doors.privacy.erasure import erase_people, finish_erasures  # noqa: E402
from recllm.doors.privacy.rotation import resume_rotation, rotate_key  # noqa: E402
from recllm.doors.service.api import join_session  # noqa: E402
from recllm.market.campaigns.export import export_campaign  # noqa: E402
from recllm.market.campaigns.file import CampaignFile, read_campaign  # noqa: E402
from recllm.market.campaigns.folder import CampaignFolder, TextStatus, read_log, read_plan  # noqa: E402
from recllm.market.campaigns.open_campaign import decide, open_campaign  # noqa: E402
from recllm.market.campaigns.plan import plan_campaign  # noqa: E402
from recllm.recommend.recommender import registry  # noqa: E402
from recllm.recommend.recommender.saved_model import load_model  # noqa: E402
from recllm.recommend.recommender.serving_state import PEOPLE_STATE, open_people_state  # noqa: E402
from recllm.recommend.recommender.shop_recommender import open_recommender, publish_recommender, refresh  # noqa: E402
from recllm.recommend.recommender.shop_states import states  # noqa: E402
from recllm.shop.ingest.workspace_load import add_consent, add_events, add_users, load_file  # noqa: E402
from recllm.shop.workspace.audit import verify_audit  # noqa: E402
from recllm.shop.workspace.workspace import NEXT_KEY, Workspace, restore_drafts  # noqa: E402
from recllm.text.encoder.toy import ToyEncoder  # noqa: E402

HALF = (".draft", ".tmp", ".part")
"""Ends of the names of what is being written."""
CAMPAIGN = """\
id = "{id}"
goal = "tea for those who drink it"
channels = ["email", "push"]
[offer]
type = "free_shipping"
[target]
category = "food > tea"
[limits]
size = 12
holdout = 0.2
[sender]
name = "Leaf"
address = "1 Market Street"
opt_out = "https://example.com/stop"
"""


def make_shop(folder: Path, *, store: str | None = None, train: bool = True) -> Path:
    """A workspace whose even people buy tea and whose odd people buy tools; train: with a published model."""
    folder.mkdir(parents=True, exist_ok=True)
    return build_shop(folder, store=store, n_models=int(train))


def query(shop: Workspace, statement: str, **values: Any) -> list[tuple[Any, ...]]:
    """Rows of the store, past everything that the program does to them."""
    with shop.store()._engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement), values)]


def damage_of_file(shop: Workspace) -> list[str]:
    """What SQLite says of its file; nothing on PostgreSQL, which checks itself."""
    if shop.store()._engine.dialect.name != "sqlite":
        return []
    problems = [f"integrity_check: {row[0]}" for row in query(shop, "PRAGMA integrity_check") if row[0] != "ok"]
    by_index = query(shop, "SELECT count(*) FROM events INDEXED BY events_by_user WHERE user_key >= 0")
    by_scan = query(shop, "SELECT count(*) FROM events NOT INDEXED")
    return problems + [f"{by_index} events by index and {by_scan} by scan"] * (by_index != by_scan)


def drafts(folder: Path) -> list[str]:
    """Half files that a killed writer left."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(HALF)]


def erase(shop: Workspace, user_id: str) -> None:
    """Erases a person, or completes what a killed erasure began. Of an erasure that came to its end before, nothing is
    left to do."""
    with contextlib.suppress(UnknownIdError, NothingToDo):
        finish_erasures(shop, actor="faults")
        erase_people(shop, [user_id], actor="faults")


def rows_of(shop: Workspace, user_id: str) -> int:
    """Rows of a person: of users, events, decisions, joined sessions."""
    pseudonym = shop.pseudonymiser().one(user_id)
    key = "user_key = (SELECT user_key FROM users WHERE user_id = :id)"
    tables = ("users", "events", "consent", "sessions")
    return sum(query(shop, f"SELECT count(*) FROM {table} WHERE {key}", id=pseudonym)[0][0] for table in tables)  # noqa: S608


def view(shop: Workspace, user_id: str) -> None:
    """An event of a person, which nothing may keep where the person was erased."""
    row = {"user_id": user_id, "item_id": "tea-1", "event": "view", "timestamp": LAST_DAY}
    add_events(shop, [row], source="faults")


@dataclass(frozen=True)
class Step:
    kind: str
    name: str
    """Of what it writes; never used twice."""
    do: Callable[[], Any] = field(repr=False)
    """Returns what is acknowledged, as JSON."""


@dataclass(frozen=True)
class Traces:
    """What a worker told before it was killed."""

    done: tuple[tuple[str, str, Any], ...]
    """Kind, name and acknowledgement of each step, in order."""
    begun: tuple[str, str] | None
    """Kind and name of the step that was killed; None where none was."""

    def acknowledged(self, kind: str) -> dict[str, Any]:
        return {name: answer for of_kind, name, answer in self.done if of_kind == kind}

    def interrupted(self, kind: str) -> str | None:
        return self.begun[1] if self.begun and self.begun[0] == kind else None


class Operation:
    name = ""
    targets: tuple[str, ...] = ()
    """Kinds of steps that are killed."""
    trained = True

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        """In the child, without an end. folder: of the workspace."""
        raise NotImplementedError

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        """In the parent, after the kill: what is wrong, in sentences. The interrupted step is done again."""
        raise NotImplementedError


class NewWorkspace(Operation):
    """`recllm init`, and the first load, which builds the index of people anew."""

    name, targets, trained = "init", ("init", "first load"), False

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        for n in count():
            root = folder.parent / "new" / f"{round_no}-{n}"
            yield Step("init", root.name, lambda root=root: self._create(root))
            yield Step("first load", root.name, lambda root=root: self._load(root, folder.parent / "events.csv"))

    def _create(self, root: Path) -> None:
        Workspace.create(root, consent_default=True, currency="EUR", timezone="UTC").close()

    def _load(self, root: Path, file: Path) -> int:
        with Workspace.open(root) as shop:
            return load_file(shop, file, "events").accepted

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        problems = []
        loaded, file = traces.acknowledged("first load"), folder.parent / "events.csv"
        for name in {*traces.acknowledged("init"), traces.begun[1] if traces.begun else ""} - {""}:
            root = folder.parent / "new" / name
            if traces.interrupted("init") == name:
                Workspace.create(root, exist_ok=True, consent_default=True, currency="EUR", timezone="UTC").close()
            with Workspace.open(root) as shop:
                shop.pseudonymiser()
                n_events = query(shop, "SELECT count(*) FROM events")[0][0]
                if n_events not in (0, PEOPLE * 28) or (name in loaded and not n_events):
                    problems.append(f"{n_events} events of a first load")
                n_again = load_file(shop, file, "events").accepted
                if n_events + n_again != PEOPLE * 28:
                    problems.append(f"{n_again} events when a first load was repeated after {n_events}")
                problems += damage_of_file(shop)
            problems += [f"a draft stays: {name}" for name in drafts(root)]
        shutil.rmtree(folder.parent / "new", ignore_errors=True)
        return problems


class Load(Operation):
    """A file of `ROWS` rows, some of them bad."""

    name, targets, trained = "load", ("load",), False
    ROWS, BAD = 1_500, 3
    BLOCK = 1 << 14
    """Bytes that are written at once: several times in one load."""

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        with Workspace.open(folder) as shop:
            for n in count():
                file = folder.parent / f"f{round_no}x{n}.csv"
                rows = [
                    f"{file.stem}-{i % 50},tea-{i % 10},2025-05-{1 + i % 28:02}T10:00:00Z,"
                    f"{'x' if i < self.BAD else 1},{i}.5,{file.stem}"
                    for i in range(self.ROWS)
                ]
                header = "user_id,item_id,timestamp,quantity,price,basket_id"
                file.write_text("\n".join([header, *rows]) + "\n")
                yield Step("load", file.stem, lambda file=file: self._load(shop, file))

    def _load(self, shop: Workspace, file: Path) -> str:
        return load_file(shop, file, "events", block_bytes=self.BLOCK).load_id

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        problems, n_good = [], self.ROWS - self.BAD
        per_basket = "SELECT basket_id, count(*) FROM events WHERE basket_id LIKE 'f%' GROUP BY basket_id"
        with Workspace.open(folder) as shop:
            baskets, loads = dict(query(shop, per_basket)), {row[0] for row in query(shop, "SELECT load_id FROM loads")}
            problems += [f"{n} of {n_good} events of {name}" for name, n in baskets.items() if n != n_good]
            # a file that was committed just before the kill and then loaded again has a load without events, too
            with_events = "SELECT count(DISTINCT load_no) FROM events WHERE basket_id LIKE 'f%'"
            if len(baskets) != (n_loads := query(shop, with_events)[0][0]):
                problems.append(f"{len(baskets)} files are there, and {n_loads} loads")
            for name, load_id in traces.acknowledged("load").items():
                if load_id not in loads or name not in baskets:
                    problems.append(f"{name} was acknowledged and is gone")
                refused = folder / "quarantine" / f"{load_id}.jsonl"
                if not refused.exists() or len(refused.read_bytes().splitlines()) != self.BAD:
                    problems.append(f"the refused rows of {name} are gone")
            if name := traces.interrupted("load"):
                report = load_file(shop, folder.parent / f"{name}.csv", "events")
                if report.accepted != (0 if name in baskets else n_good):
                    problems.append(f"{name} again gave {report.accepted} events")
                if dict(query(shop, per_basket)).get(name) != n_good:
                    problems.append(f"{name} is not there once after it was loaded again")
            problems += damage_of_file(shop)
        problems += [f"a draft stays: {name}" for name in drafts(folder)]
        for file in folder.parent.glob("f*.csv"):
            file.unlink()
        return problems


class Feedback(Operation):
    """Batches of events with ids, as the service takes them."""

    name, targets, trained = "feedback", ("batch",), False
    ROWS = 40

    def batch(self, name: str) -> list[dict[str, Any]]:
        return [
            {
                "event_id": f"{name}-{n}",
                "user_id": f"u{n % PEOPLE:02}",
                "item_id": f"tea-{n % 10}",
                "event": "view",
                "timestamp": LAST_DAY - timedelta(minutes=n),
                "basket_id": name,
            }
            for n in range(self.ROWS)
        ]

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        with Workspace.open(folder) as shop:
            for n in count():
                name = f"b{round_no}x{n}"
                yield Step("batch", name, lambda name=name: self._record(shop, name))

    def _record(self, shop: Workspace, name: str) -> int:
        return int(add_events(shop, self.batch(name), source="faults").accepted)

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        problems = []
        per_batch = "SELECT basket_id, count(*) FROM events WHERE basket_id LIKE 'b%' GROUP BY basket_id"
        with Workspace.open(folder) as shop:
            batches = dict(query(shop, per_batch))
            problems += [f"{n} of {self.ROWS} events of {name}" for name, n in batches.items() if n != self.ROWS]
            for name in traces.acknowledged("batch"):
                if name not in batches:
                    problems.append(f"{name} was acknowledged and is gone")
                elif again := self._record(shop, name):
                    problems.append(f"{again} events of {name} count twice")
            if name := traces.interrupted("batch"):
                again = self._record(shop, name)
                if again != (0 if name in batches else self.ROWS):
                    problems.append(f"{name} again gave {again} events")
            problems += damage_of_file(shop)
        return problems


class Publication(Operation):
    """`publish_recommender` of a trained model: the version, the pointer, the people's part of the serving state."""

    name, targets = "publication", ("publish",)

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        with Workspace.open(folder) as shop:
            model = load_model(shop.models_dir)
            for n in count():
                yield Step("publish", f"{round_no}-{n}", lambda: publish_recommender(shop, model, ToyEncoder()))

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        with Workspace.open(folder) as shop:
            versions = [answer for _, _, answer in traces.done if answer]
            problems = unserved(shop, versions, interrupted=traces.begun is not None)
            publish_recommender(shop, load_model(shop.models_dir), ToyEncoder())  # sweeps what was left
            problems += [f"a draft stays: {name}" for name in drafts(folder)]
            for manifest in registry.versions(shop.models_dir)[:-2]:
                shutil.rmtree(shop.models_dir / "versions" / manifest.version)
        return problems


def unserved(
    shop: Workspace, acknowledged: list[str], *, interrupted: bool, withdrawn: frozenset[str] = frozenset()
) -> list[str]:
    """What is wrong with the versions and the one that answers. withdrawn: who may have withdrawn."""
    problems = []
    serving = registry.current(shop.models_dir)
    if serving is None:
        return ["no version serves"]
    for version in {serving, *acknowledged}:
        try:
            registry.open_version(shop.models_dir, version)
        except RecllmError as error:
            problems.append(f"{version}: {error}")
    if acknowledged and serving != acknowledged[-1] and not interrupted:
        problems.append(f"{serving} serves, and not the acknowledged {acknowledged[-1]}")
    if serving in acknowledged[:-1]:
        problems.append(f"{serving} serves, which is older than the acknowledged {acknowledged[-1]}")
    try:
        asker = next(user for user in (f"u{n:02}" for n in range(PEOPLE)) if user not in withdrawn)
        (slate,) = open_recommender(shop, encoder=ToyEncoder()).recommend(asker, k=3)
        if slate.model_version != serving or not slate.items:
            problems.append(f"{slate.model_version} answers with {len(slate.items)} items while {serving} serves")
    except RecllmError as error:
        problems.append(f"nothing answers: {error}")
    return problems


class Refresh(Operation):
    """People withdraw, and the serving state is brought up to the present."""

    name, targets = "refresh", ("withdraw", "refresh")

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        with Workspace.open(folder) as shop:
            for n in count():
                user = f"u{(round_no * 3 + n) % PEOPLE:02}"
                yield Step("withdraw", user, lambda user=user: self._say(shop, user, False))
                yield Step("refresh", f"{round_no}-{n}", lambda: refresh(shop))

    def _say(self, shop: Workspace, user: str, granted: bool) -> None:
        add_consent(shop, [(user, Purpose.PERSONALISATION, granted, datetime.now(UTC))], source="faults")

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        with Workspace.open(folder) as shop:
            acknowledged = list(traces.acknowledged("refresh").values())[-1:]
            withdrawn = set(traces.acknowledged("withdraw"))
            perhaps = frozenset(withdrawn | {traces.interrupted("withdraw") or ""})
            interrupted = traces.interrupted("refresh") is not None
            problems = unserved(shop, acknowledged, interrupted=interrupted, withdrawn=perhaps)
            problems += held_by_states(shop, withdrawn)
            for user in withdrawn:
                status = open_recommender(shop, encoder=ToyEncoder()).recommend(user, k=1)[0].status
                if status != "no_consent":
                    problems.append(f"a person who withdrew is served: {status}")
            time.sleep(0.002)  # of one instant the refusal counts
            for user in perhaps - {""}:
                self._say(shop, user, True)
            refresh(shop)
        return problems


def held_by_states(shop: Workspace, people: set[str]) -> list[str]:
    """Who of these is in a people's part of a serving state, and what else lies beside them. An answer was given."""
    names, problems = shop.pseudonymiser().many(sorted(people)), []
    for path in states(shop):
        state = open_people_state(path / PEOPLE_STATE)
        n = len(set(state.digest(names).tolist()) & set(state.digests.tolist()))
        problems += [f"{path.name} holds {n} people who are gone"] * bool(n)
    left = drafts(shop.root / "serving") if people else []
    return problems + [f"a draft of everybody's histories stays: {name}" for name in left]


class Campaign(Operation):
    """Plan, approval, export."""

    name, targets = "campaign", ("plan", "approve", "export")

    def file(self, folder: Path, name: str) -> CampaignFile:
        path = folder.parent / f"{name}.toml"
        if not path.exists():
            path.write_text(CAMPAIGN.format(id=name))
        return read_campaign(path)

    def plan(self, shop: Workspace, file: CampaignFile, *, replace: bool = False) -> list[str]:
        loaded = open_recommender(shop, encoder=ToyEncoder(), everybody=True)
        return [t.id for t in plan_campaign(shop, file, recommender=loaded, replace=replace).texts]

    def approve(self, shop: Workspace, file: CampaignFile) -> list[str]:
        campaign = open_campaign(shop, file)
        texts = [text.id for text in campaign.plan.texts]
        decide(campaign, TextStatus.APPROVED, texts, by="Ann", at=datetime.now(UTC))
        return texts

    def export(self, shop: Workspace, file: CampaignFile) -> int:
        # all campaigns of a round reach the same people, at once
        with patch("recllm.market.campaigns.export.contacted_lately", return_value=set()):
            return export_campaign(open_campaign(shop, file), shop.root.parent / "out").reached

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        with Workspace.open(folder) as shop:
            for n in count():
                file = self.file(folder, f"c{round_no}x{n}")
                for kind in self.targets:
                    do = getattr(self, kind)
                    yield Step(kind, file.id, lambda do=do, file=file: do(shop, file))

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        problems: list[str] = []
        with Workspace.open(folder) as shop:
            names = dict.fromkeys([name for _, name, _ in traces.done] + ([traces.begun[1]] if traces.begun else []))
            for name in names:
                done = {kind for kind, of_name, _ in traces.done if of_name == name}
                begun = traces.begun[0] if traces.begun and traces.begun[1] == name else None
                problems += [f"{name}: {problem}" for problem in self._lost(shop, name, done, begun)]
            problems += [f"a draft stays: {name}" for name in drafts(folder / "campaigns") + drafts(folder.parent)]
        return list(dict.fromkeys(problems))

    def _lost(self, shop: Workspace, name: str, done: set[str], begun: str | None) -> list[str]:
        problems, file, files = [], self.file(shop.root, name), CampaignFolder.of(shop.root, name)
        try:
            texts = [text.id for text in read_plan(files).texts]
        except UsageError:  # nothing was planned
            if "plan" in done:
                return ["the plan was acknowledged and is gone"]
            texts = self.plan(shop, file)
        with files.locked():
            decided, exports = list(read_log(files.decisions)), list(read_log(files.exports))
        approved = sorted(line["text_id"] for line in decided)
        if approved not in ([], sorted(texts)) or ("approve" in done and not approved):
            problems.append(f"{len(approved)} of {len(texts)} texts are approved")
        if begun == "plan":
            self.plan(shop, file, replace=True)
        if begun in ("plan", "approve") or not approved:
            self.approve(shop, file)
        if "export" in done and not exports:
            problems.append("the export was acknowledged and is not in the log")
        if not done & {"export"} and begun != "export":
            return problems
        if begun == "export":
            self.export(shop, file)
        rows = []
        for path in (shop.root.parent / "out").glob(f"{name}-*.csv"):
            with path.open(newline="") as stream:
                rows += [row["recllm_message_id"] for row in csv.DictReader(stream)]
        with files.locked():
            *_, entry = read_log(files.exports)
        reached = len(entry["reached"])
        of_store = {
            "messages": query(shop, "SELECT count(*) FROM messages WHERE campaign_id = :id", id=name)[0][0],
            "showings": query(shop, "SELECT count(*) FROM events WHERE campaign_id = :id", id=name)[0][0],
            "rows of files": len(set(rows)),
        }
        return problems + [f"{n} {what} for {reached} people" for what, n in of_store.items() if n != reached]


class Erasure(Operation):
    """People come, are in the serving state, and are erased."""

    name, targets = "erasure", ("erase",)
    EVENTS = 6

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        with Workspace.open(folder) as shop:
            for n in count():
                name = f"e{round_no}x{n}"
                yield Step("come", name, lambda name=name: self._come(shop, name))
                yield Step("erase", name, lambda name=name: erase(shop, name))

    def _come(self, shop: Workspace, name: str) -> str:
        add_users(shop, {name: {"age": self._mark(name)}}, source="faults")
        row = {"item_id": "tea-1", "event": "purchase", "basket_id": self._mark(name), "quantity": 1.0}
        rows = [row | {"user_id": name, "timestamp": LAST_DAY - timedelta(days=n)} for n in range(self.EVENTS - 1)]
        add_events(shop, rows, source="faults")
        session = {**row, "user_id": None, "session_id": f"s-{name}", "timestamp": LAST_DAY}
        add_events(shop, [session], source="faults")
        add_consent(shop, [(name, Purpose.EMAIL, True, LAST_DAY)], source="faults")
        join_session(shop, f"s-{name}", name)
        refresh(shop)
        return shop.pseudonymiser().one(name)

    def _mark(self, name: str) -> str:
        """What stands in the person's rows, and in nobody else's."""
        return f"mark-of-{name}-"

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        problems = []
        with Workspace.open(folder) as shop:
            if name := traces.interrupted("erase"):
                n_left = rows_of(shop, name)
                if n_left not in (0, self.EVENTS + 3):
                    problems.append(f"{n_left} rows of {self.EVENTS + 3} are left of a person")
                erase(shop, name)
            gone = {*traces.acknowledged("erase"), *([name] if name else [])}
            (slate,) = open_recommender(shop, encoder=ToyEncoder()).recommend("u02", k=3)
            problems += [] if slate.items else ["nobody else is served"]
            problems += held_by_states(shop, gone)
            for name in gone:
                view(shop, name)
                if n := rows_of(shop, name):
                    problems.append(f"{n} rows of an erased person")
            n_others = query(shop, "SELECT count(*) FROM users WHERE user_id LIKE 'u%'")[0][0]
            problems += [f"{n_others} others of {PEOPLE}"] * (n_others < PEOPLE)
            marks = [self._mark(name).encode() for name in gone]
            names = [text.encode() for text in shop.pseudonymiser().many(sorted(gone))]
            for path in folder.rglob("*"):
                # a tombstone, a certificate and the audit log name a pseudonym
                may_name = path.name.startswith("store.sqlite") or "cert" in path.parent.name
                texts = marks if may_name else marks + names
                if path.is_file() and any(text in path.read_bytes() for text in texts):
                    problems.append(f"bytes of an erased person are in {path.relative_to(folder)}")
            problems += damage_of_file(shop)
        return problems


class Rotation(Operation):
    """Everybody gets another pseudonym, again and again; somebody was erased before."""

    name, targets, trained = "rotation", ("rotate",), False

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        with Workspace.open(folder) as shop:
            yield Step("erase", f"g{round_no}", lambda: erase(shop, f"g{round_no}"))
        for n in count():
            yield Step("rotate", f"{round_no}-{n}", lambda: self._rotate(folder))

    def _rotate(self, folder: Path) -> int:
        with Workspace.open(folder) as shop:
            return rotate_key(shop, actor="faults").generation

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        problems: list[str] = []
        try:
            with Workspace.open(folder):
                pass  # nothing of it was done, or all
        except StoreError:
            if not (folder / NEXT_KEY).exists():
                problems.append("a workspace does not open, and there is no key to go on with")
        with resume_rotation(folder) if (folder / NEXT_KEY).exists() else Workspace.open(folder) as shop:
            generations = [n for _, _, n in traces.done if n]
            n_keys = len(shop.keys())
            if generations and n_keys - generations[-1] not in (0, int(traces.begun is not None)):
                problems.append(f"{n_keys} keys after the acknowledged {generations[-1]}")
            names = shop.pseudonymiser().many([f"u{n:02}" for n in range(PEOPLE)])
            per_person = "SELECT user_id, count(*) FROM events JOIN users USING (user_key) GROUP BY user_id"
            if dict(query(shop, per_person)) != dict.fromkeys(names, 28):
                problems.append("people do not have their events under the names of the key")
            for name in traces.acknowledged("erase"):
                view(shop, name)
                if rows_of(shop, name):
                    problems.append("a tombstone keeps nobody out")
            if problem := verify_audit(shop).problem:
                problems.append(f"the audit log: {problem}")
            problems += damage_of_file(shop)
        if traces.begun is not None:
            self._rotate(folder)
        return problems + [f"a draft stays: {name}" for name in drafts(folder)]


class Restore(Operation):
    """A backup is put in the place of a workspace that went on: people refused, events came."""

    name, targets, trained = "restore", ("restore",), False
    ROWS = 5

    def steps(self, folder: Path, round_no: int) -> Iterator[Step]:
        file = folder.parent / f"backup-{round_no}.tar"
        yield Step("back up", file.name, lambda: self._back_up(folder, file))
        for n in count():
            name = f"c{round_no}x{n}"
            yield Step("change", name, lambda name=name, n=n: self._change(folder, name, f"u{n % PEOPLE:02}"))
            yield Step("restore", name, lambda: self._restore(folder, file))

    def _back_up(self, folder: Path, file: Path) -> None:
        with Workspace.open(folder) as shop:
            now = datetime.now(UTC)
            add_consent(shop, [(f"u{n:02}", Purpose.EMAIL, True, now) for n in range(PEOPLE)], source="faults")
            back_up(shop, file, actor="faults")

    def _change(self, folder: Path, name: str, user_id: str) -> str:
        with Workspace.open(folder) as shop:
            add_consent(shop, [(user_id, Purpose.EMAIL, False, datetime.now(UTC))], source="faults")
            row = {"user_id": user_id, "item_id": "tea-1", "event": "view", "basket_id": name}
            rows = [row | {"timestamp": LAST_DAY - timedelta(days=n)} for n in range(self.ROWS)]
            add_events(shop, rows, source="faults")
            erase(shop, f"g{name}")
            return user_id

    def _restore(self, folder: Path, file: Path) -> bool:
        return restore(file, folder, actor="faults", replace=True).taken_over

    def losses(self, folder: Path, traces: Traces) -> list[str]:
        problems = []
        if traces.interrupted("restore"):
            if not folder.exists():
                with contextlib.suppress(StoreError), Workspace.open(folder):
                    problems.append("a workspace opens that is not there")
            (file,) = folder.parent.glob("backup-*.tar")
            self._restore(folder, file)
        per_change = "SELECT basket_id, count(*) FROM events WHERE basket_id LIKE 'c%' GROUP BY basket_id"
        kept: Counter[str] = Counter()
        befores = list(folder.parent.glob(f"{folder.name}.before-*"))
        for root in (folder, *befores):
            with Workspace.open(root) as shop:
                changes = dict(query(shop, per_change))
                problems += [f"{n} of {self.ROWS} events of a change" for n in changes.values() if n != self.ROWS]
                problems += damage_of_file(shop)
                kept.update(changes)
        with Workspace.open(folder) as shop:
            gate, names = shop.gate(), shop.pseudonymiser()
            for name, user_id in traces.acknowledged("change").items():
                if name not in kept:
                    problems.append("events of a change are neither in the workspace nor in what was replaced")
                if gate.permits(names.one(user_id), Purpose.EMAIL):
                    problems.append("a refusal was turned back")
                view(shop, f"g{name}")
                if rows_of(shop, f"g{name}"):
                    problems.append("somebody who was erased is kept again")
            if query(shop, "SELECT count(*) FROM events WHERE basket_id IS NULL")[0][0] != PEOPLE * 28:
                problems.append("events of before the backup are gone")
            if problem := verify_audit(shop).problem:
                problems.append(f"the audit log: {problem}")
        problems += [f"{path.name} stays" for path in restore_drafts(folder) if path.exists()]
        for root in befores:
            shutil.rmtree(root)
        for file in folder.parent.glob("backup-*.tar"):
            file.unlink()
        return problems + [f"a draft stays: {name}" for name in drafts(folder)]


OPERATIONS: Mapping[str, type[Operation]] = {
    kind.name: kind
    for kind in (NewWorkspace, Load, Feedback, Publication, Refresh, Campaign, Erasure, Rotation, Restore)
}
ON_A_SERVER = ("load", "feedback", "erasure")


def work_until_killed() -> None:
    """Each line of standard input names an operation, a workspace and the number of a round: a worker is forked, does
    steps and tells of each, until it is killed. The imports happen once."""
    for line in sys.stdin:
        name, folder, round_no = json.loads(line)
        worker = os.fork()
        if worker == 0:
            _tell(worker=os.getpid())
            for step in OPERATIONS[name]().steps(Path(folder), round_no):
                _do(step)
        os.waitpid(worker, 0)
        _tell(ended=worker)


def _do(step: Step) -> None:
    while True:
        began = time.perf_counter()
        _tell(begin=step.kind, name=step.name)
        try:
            answer = step.do()
        except RecllmError as error:  # the database is gone: told in words, and tried again
            _tell(failed=step.kind, name=step.name, error=str(error))
            time.sleep(0.02)
        except BaseException as error:
            _tell(crashed=step.kind, name=step.name, error=f"{type(error).__name__}: {error}")
            os._exit(1)
        else:
            _tell(done=step.kind, name=step.name, answer=answer, seconds=time.perf_counter() - began)
            return


def _tell(**event: Any) -> None:
    os.write(1, json.dumps(event).encode() + b"\n")


@dataclass
class Account:
    """Of one operation."""

    kills: int = 0
    inside: int = 0
    """Of the kills, those that came while a step that is aimed at was being done."""
    acknowledged: int = 0
    """Steps."""
    told: int = 0
    """Errors that the child was told by, while its database was gone."""
    by_fault: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def document(self) -> dict[str, Any]:
        lengths = {kind: round(1_000 * statistics.median(values), 1) for kind, values in self.seconds.items() if values}
        return {
            "kills": self.kills,
            "inside": self.inside,
            "acknowledged": self.acknowledged,
            "told": self.told,
            "faults": dict(self.by_fault),
            "step_ms": lengths,
            "losses": self.losses,
        }


class Child:
    """The process that forks workers."""

    def __init__(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(HERE.parent), os.environ.get("PYTHONPATH", ""))),
            "POLARS_MAX_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(HERE / "faults.py"), "--child"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def begin(self, name: str, folder: Path, round_no: int) -> int:
        """Id of a new worker."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, str(folder), round_no]) + "\n")
        self._process.stdin.flush()
        return int(self.next()["worker"])

    def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the child ended by itself"
        event: dict[str, Any] = json.loads(line)
        return event

    def close(self) -> None:
        self._process.communicate()


def measure_operation(
    name: str, kills: int, child: Child, *, shop: Path | None = None, server: Any = None, seed: int = 0
) -> Account:
    """shop: a folder of `make_shop` to be copied; one is made when None. server: a `PostgresServer` that keeps the
    rows, whose processes are killed in turn with the child's."""
    operation, account, rng = OPERATIONS[name](), Account(), random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory(prefix="recllm-faults-") as temporary:
        if shop is None:
            store = None if server is None else server.url()
            root = make_shop(Path(temporary), store=store, train=operation.trained)
        else:
            root = Path(shutil.copytree(shop, Path(temporary) / "copy")) / "shop"
        faults = ["child"] if server is None else ["child", "backend", "fast", "immediate"]
        for round_no in range(kills + 1):
            fault = faults[round_no % len(faults)]
            target = rng.choice(operation.targets)
            # the first round measures how long steps take, and is killed after them
            measured = set(operation.targets) if round_no == 0 else set()
            wait_for = rng.randint(0, 1)
            worker = child.begin(name, root, round_no)
            traces, problems = _one_round(child, worker, target, wait_for, measured, fault, server, account, rng)
            account.by_fault[fault] += 1
            account.kills += 1
            account.inside += traces.begun is not None and traces.begun[0] in operation.targets
            account.acknowledged += len(traces.done)
            try:
                problems += operation.losses(root, traces)
            except RecllmError as error:
                problems.append(f"{type(error).__name__}: {error}")
            account.losses += [f"round {round_no} ({fault}, {traces.begun}): {problem}" for problem in problems]
    return account


def _one_round(
    child: Child,
    worker: int,
    target: str,
    wait_for: int,
    measured: set[str],
    fault: str,
    server: Any,
    account: Account,
    rng: random.Random,
) -> tuple[Traces, list[str]]:
    """Lets a worker do some steps, then comes the fault while it does one of the kind `target`."""
    events, problems, n_done = [], [], 0
    while True:
        events.append(event := child.next())
        n_done += "done" in event
        if "crashed" in event or "ended" in event or ("failed" in event and server is None):
            break
        is_measured = {event["done"] for event in events if "done" in event} >= measured
        if event.get("begin") == target and n_done >= wait_for and is_measured:
            break
    if "ended" in events[-1]:
        return Traces((), None), ["the worker ended by itself"]
    lengths = account.seconds[target]
    time.sleep(rng.uniform(0, 1.1 * statistics.median(lengths)) if lengths else 0)
    if fault == "child":
        os.kill(worker, signal.SIGKILL)
    else:
        if fault == "backend":
            _kill_backend(server)
        else:
            server.stop(fault)
            time.sleep(rng.uniform(0, 0.2))
            server.start()
        n_more = 2  # it goes on as if nothing had been
        while n_more and "crashed" not in events[-1]:
            events.append(event := child.next())
            n_more -= "done" in event
        os.kill(worker, signal.SIGKILL)
        _await(server)
    while "ended" not in (event := child.next()):
        events.append(event)
    done = []
    for event in events:
        if "done" in event:
            account.seconds[event["done"]].append(event["seconds"])
            done.append((event["done"], event["name"], event["answer"]))
        account.told += "failed" in event
        if "failed" in event and fault == "child":
            problems.append(f"{event['name']} was refused: {event['error']}")
        if "crashed" in event:
            problems.append(f"{event['name']} ended with {event['error']}")
    last = events[-1]
    kind = last.get("begin") or last.get("failed")
    return Traces(tuple(done), (kind, last["name"]) if kind else None), problems


def _kill_backend(server: Any) -> None:
    """SIGKILL to the server's process behind a connection of the child; all other sessions end with it."""
    from postgres_server import DATABASE, ROLE

    with contextlib.suppress(Exception), server.admin() as connection:
        busy = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND usename = %s ORDER BY state = 'active' DESC"
        row = connection.execute(busy, (DATABASE, ROLE)).fetchone()
        if row is not None:
            os.kill(row[0], signal.SIGKILL)


def _await(server: Any) -> None:
    """Until the server takes connections: it mends itself after one of its processes was killed."""
    import psycopg

    for _ in range(500):
        with contextlib.suppress(psycopg.OperationalError), server.admin():
            return
        time.sleep(0.02)


def postgres_server() -> Any:
    """A server of its own; None where PostgreSQL or its driver is missing."""
    import importlib.util

    from postgres_server import PASSWORD, PostgresServer, find_binaries

    binaries = find_binaries()
    if binaries is None or importlib.util.find_spec("psycopg") is None:
        return None
    os.environ["PGPASSWORD"] = PASSWORD
    return PostgresServer(binaries)


def measure(kills: int = 200, *, names: tuple[str, ...] = tuple(OPERATIONS), on_server: bool = True) -> dict[str, Any]:
    """So many kills of each operation: `kills` in total, `losses` in total, and the account of each operation."""
    os.environ.pop("RECLLM_STORE_URL", None)
    operations, began, child = {}, time.perf_counter(), Child()
    for name in names:
        operations[name] = measure_operation(name, kills, child).document()
        sys.stderr.write(f"{name}: {operations[name]}\n")
    child.close()
    server = postgres_server() if on_server else None
    if server is not None:
        child = Child()  # it knows the server's password
        try:
            for name in set(names) & set(ON_A_SERVER):
                operations[f"{name} (postgresql)"] = measure_operation(name, kills, child, server=server).document()
                sys.stderr.write(f"{name} (postgresql): {operations[f'{name} (postgresql)']}\n")
        finally:
            child.close()
            server.close()
    return {
        "kills": sum(account["kills"] for account in operations.values()),
        "inside": sum(account["inside"] for account in operations.values()),
        "losses": sum(len(account["losses"]) for account in operations.values()),
        "seconds": round(time.perf_counter() - began),
        "postgresql": server is not None,
        "operations": operations,
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        work_until_killed()
        return
    from inputs import finish, script_parser

    parser = script_parser(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of each operation")
    parser.add_argument("--operations", default=",".join(OPERATIONS), help="names with commas")
    parser.add_argument("--no-server", action="store_true", help="SQLite alone")
    args = parser.parse_args()
    record = measure(args.kills, names=tuple(args.operations.split(",")), on_server=not args.no_server)
    finish(record, args.output)
    sys.exit(1 if record["losses"] else 0)


if __name__ == "__main__":
    main()
