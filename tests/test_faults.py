"""Faults survived: kills, a full or read-only disk, jumps of the clock, damaged files, two writers, a lost network.

`eval/faults.py` kills each operation many times; here a handful of times.
"""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import faults
import pytest
from conftest import Command
from postgres_server import PostgresServer
from service_world import publish_again
from waiting import at_once

from recllm.base.errors import ModelError, RecllmError, StoreError
from recllm.base.files import sweep_drafts, whole_file
from recllm.base.schema import Purpose
from recllm.market.campaigns.folder import CampaignFolder, TextStatus, read_log, read_plan
from recllm.market.campaigns.open_campaign import decide, open_campaign
from recllm.market.experiments.feedback import feedback_report
from recllm.recommend.recommender import registry
from recllm.recommend.recommender.saved_model import load_model
from recllm.recommend.recommender.serving_state import PEOPLE_STATE
from recllm.recommend.recommender.shop_recommender import open_recommender, publish_recommender, refresh
from recllm.recommend.recommender.shop_states import states
from recllm.recommend.recommender.train import train_workspace
from recllm.shop.ingest.workspace_load import add_consent, add_events, load_file, record_shown
from recllm.shop.store.database import Store
from recllm.shop.workspace.workspace import Workspace, log_end, present
from recllm.text.encoder.toy import ToyEncoder

HERE = Path(__file__).parent
campaign, feedback = faults.Campaign(), faults.Feedback()


@pytest.fixture(scope="module")
def tiny_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained workspace `shop`, to be copied."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RECLLM_KEY", raising=False)
        patch.delenv("RECLLM_STORE_URL", raising=False)
        faults.make_shop(folder)
    return folder


@pytest.fixture
def folder(tiny_shop: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_shop, tmp_path / "copy")) / "shop"


@pytest.fixture
def shop(folder: Path) -> Iterator[Workspace]:
    with Workspace.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def child() -> Iterator[Any]:
    with closing(faults.Child()) as worker:
        yield worker


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("operation", sorted(faults.OPERATIONS))
def test_a_kill_loses_nothing_and_leaves_nothing_half_done(operation: str, child: Any, tiny_shop: Path) -> None:
    account = faults.measure_operation(operation, 3, child, shop=tiny_shop)
    assert account.losses == []
    assert account.inside and account.acknowledged, "no kill landed in a step, or nothing was ever done"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("operation", ["load", "feedback"])
def test_a_server_that_dies_or_stops_loses_nothing_either(operation: str, postgres_server: PostgresServer) -> None:
    """The child, the server's process behind it, and the server itself, in turn."""
    with closing(faults.Child()) as worker:
        account = faults.measure_operation(operation, 3, worker, server=postgres_server)
    assert account.losses == []
    assert account.told and set(account.by_fault) == {"child", "backend", "fast", "immediate"}


def test_a_draft_of_an_earlier_process_of_the_same_number_is_swept(tmp_path: Path) -> None:
    """In a container each start has the same number."""
    left = tmp_path / f".state.{'0' * 32}.{os.getpid()}.draft"
    left.touch()
    with whole_file(tmp_path / "other") as stream:
        stream.write(b"x")
        sweep_drafts(tmp_path)
        assert not left.exists()
    assert (tmp_path / "other").read_bytes() == b"x"


def test_no_state_stays_that_knows_who_withdrew(shop: Workspace) -> None:
    """Neither that of the version before, nor what a killed process left of one."""
    first = the_state(shop) / PEOPLE_STATE
    left = shop.root / "serving" / f".{first.name}.{'0' * 32}.{2**22 + 1}.draft"
    shutil.copy(first, left)
    refresh(shop)
    assert first.exists() and not left.exists(), "to go back is quick as long as nobody decided anything"
    add_consent(shop, [("u03", Purpose.PERSONALISATION, False, datetime.now(UTC))], source="test")
    refresh(shop)
    assert list((shop.root / "serving").iterdir()) == [the_state(shop)] != [first.parent]


def the_state(shop: Workspace) -> Path:
    """The newest one of the serving version."""
    return states(shop, registry.current(shop.models_dir))[-1]


def test_a_stopped_export_is_repeated_and_shown_once(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    file = campaign.file(shop.root, "c")
    campaign.plan(shop, file)
    campaign.approve(shop, file)

    def showings() -> int:
        return int(faults.query(shop, "SELECT count(*) FROM events WHERE campaign_id = 'c'")[0][0])

    for part in ("append", "write_lists", "record_shown"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"recllm.market.campaigns.export.{part}", Mock(side_effect=KeyboardInterrupt))
            campaign.export(shop, file)
    reached = campaign.export(shop, file)
    assert showings() == reached > 0
    assert campaign.export(shop, file) == reached == showings()


def operations(shop: Workspace) -> dict[str, Callable[[], Any]]:
    """Everything that writes; each may be done again."""
    of = partial(campaign.file, shop.root)
    model = load_model(shop.models_dir)
    return {
        "load": lambda: load_file(shop, shop.root.parent / "more.csv", "events"),
        "feedback": lambda: add_events(shop, feedback.batch("b"), source="test"),
        "consent": lambda: add_consent(shop, [("u03", Purpose.EMAIL, False, datetime.now(UTC))], source="test"),
        "plan": lambda: campaign.plan(shop, of("planned"), replace=True),
        "approve": lambda: campaign.approve(shop, of("approved")),
        "export": lambda: campaign.export(shop, of("exported")),
        "publish": lambda: publish_recommender(shop, model, ToyEncoder()),
        "promote": lambda: registry.promote(shop.models_dir, registry.versions(shop.models_dir)[0].version),
        "erase": lambda: faults.erase(shop, "u05"),
    }


def contents(shop: Workspace) -> dict[str, Any]:
    """What a refused operation may not change."""
    with shop.store().read() as reader:
        rows = reader.counts()
    decided = {}
    for name in ("approved", "exported"):
        files = CampaignFolder.of(shop.root, name)
        with files.locked():
            lines = [list(read_log(log)) for log in (files.decisions, files.exports)]
        decided[name] = (lines, read_plan(files))
    versions = sorted(path.name for path in (shop.models_dir / "versions").iterdir())
    pointer = (shop.models_dir / registry.POINTER).read_bytes()
    of_models = sorted(path.name for path in (shop.root / "serving").iterdir())
    return {"rows": rows, "campaigns": decided, "models": (versions, pointer), "states": of_models}


def files_of(root: Path, *, leave_out: str = "") -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if "sqlite-" not in path.name and path.name != leave_out]


def prepared(root: Path) -> None:
    rows = [f"n{i},tea-{i % 10},2025-05-{1 + i % 28:02}T10:00:00Z,1,{i}.5" for i in range(4_000)]
    (root.parent / "more.csv").write_text("\n".join(["user_id,item_id,timestamp,quantity,price", *rows]) + "\n")
    with Workspace.open(root) as shop:
        for name in ("approved", "exported"):
            campaign.plan(shop, campaign.file(root, name))
        campaign.approve(shop, campaign.file(root, "exported"))
        campaign.file(root, "planned")
        (root.parent / "out").mkdir()
    with closing(sqlite3.connect(root / "store.sqlite")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def mounted(where: Path, megabytes: int) -> Iterator[None]:
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(where)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """So many bytes of a small disk are left."""
    size = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    file = disk / "fill"
    with file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size - left)
    try:
        yield
    finally:
        file.unlink()


@contextmanager
def no_file_grows(_: Path, limit: int) -> Iterator[None]:
    """No write reaches behind so many bytes of a file: what needs no right to mount."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused_and_unchanged(root: Path, names: list[str], *, all_refused: bool) -> None:
    """Each operation happens or is refused in words; one that is refused changes nothing and leaves no draft."""
    refused = []
    for name in names:
        with Workspace.open(root) as shop:
            before, do = contents(shop), operations(shop)[name]
            try:
                do()
            except RecllmError as error:
                refused.append(name)
                assert "\n" not in str(error) and "Errno" not in str(error), name
                after = contents(shop)
                if name == "export":  # messages and showings come before their files, each once
                    before["rows"] = after["rows"]
                assert after == before, name
    assert refused and (refused == names or not all_refused), refused
    assert not list(root.rglob("*.draft")) and not list(root.rglob("*.part"))


@pytest.mark.parametrize("kind", ["a small disk", "a limit on files"])
def test_a_full_disk_refuses_in_words_and_changes_nothing(kind: str, tiny_shop: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 16) if kind == "a small disk" else nullcontext():
        disk = tmp_path / "disk"
        root = Path(shutil.copytree(tiny_shop, disk / "copy")) / "shop"
        prepared(root)
        with Workspace.open(root) as shop:
            names = list(operations(shop))
        for left in (60_000, 250_000) if kind == "a small disk" else (40_000,):
            with (filled if kind == "a small disk" else no_file_grows)(disk, left):
                refused_and_unchanged(root, [name for name in names if name != "erase"], all_refused=False)
                with Workspace.open(root) as shop:
                    assert open_recommender(shop).recommend("u02", k=1)[0].items, "readers go on"
        with Workspace.open(root) as shop:
            for name, do in operations(shop).items():
                if name != "export" or not CampaignFolder.of(root, "exported").exports.exists():
                    do()


def test_a_failed_publication_leaves_no_version_behind(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt on a full disk would make it fuller."""
    before = sorted(path.name for path in (shop.models_dir / "versions").iterdir())
    whole = registry.write_whole

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == registry.POINTER:
            raise OSError(28, "No space left on device")
        whole(path, *arguments, **options)

    monkeypatch.setattr(registry, "write_whole", full)
    with pytest.raises(ModelError, match="No space left"):
        publish_again(shop)
    assert sorted(path.name for path in (shop.models_dir / "versions").iterdir()) == before
    assert [path.stem for path in (shop.root / "serving").iterdir()] == before
    assert open_recommender(shop).recommend("u02", k=1)[0].model_version == before[0]


def test_a_read_only_disk_changes_nothing(tiny_shop: Path, tmp_path: Path, command: Command) -> None:
    with mounted(tmp_path / "disk", 16):
        root = Path(shutil.copytree(tiny_shop, tmp_path / "disk" / "copy")) / "shop"
        prepared(root)
        with Workspace.open(root) as shop:
            before = contents(shop)
            files, names = files_of(root), list(operations(shop))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        for name in names:
            with Workspace.open(root) as shop, pytest.raises(RecllmError) as caught:
                operations(shop)[name]()
            assert "\n" not in str(caught.value)
        code, _, err = command("recommend", "--user", "u02", "-w", str(root))
        assert code == 1 and "may be written" in err and "Traceback" not in err
        assert command("models", "-w", str(root))[0] == 0
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "disk")], check=True)
        assert files_of(root) == files
        with Workspace.open(root) as shop:
            assert contents(shop) == before
            for do in operations(shop).values():
                do()


class Clock:
    """What the whole program takes for the clock of the machine."""

    offset = timedelta()

    def back(self, **by: float) -> None:
        """By nothing: the clock is right."""
        self.offset = -timedelta(**by)

    def to(self, moment: datetime) -> None:
        self.offset = moment - datetime.now(UTC)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    shown = Clock()

    class AnyDatetime(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

    class Shifted(datetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + shown.offset

    for name, module in list(sys.modules.items()):
        if name.startswith("recllm.") and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Shifted)
    return shown


FAR = datetime(2040, 1, 1, tzinfo=UTC)
PEOPLE_EVENTS = faults.PEOPLE * 28


def test_versions_stand_in_their_order_whatever_the_clock_says(shop: Workspace, clock: Clock) -> None:
    order = [str(registry.current(shop.models_dir))]
    for jump in (lambda: clock.back(hours=1), lambda: clock.to(FAR), clock.back, lambda: clock.back(days=400)):
        jump()
        order.append(publish_again(shop))
        (slate,) = open_recommender(shop).recommend("u02", k=3)
        assert slate.model_version == order[-1] and slate.items
    assert [manifest.version for manifest in registry.versions(shop.models_dir)] == order
    assert [decision.version for decision in registry.decisions(shop.models_dir)] == order
    for earlier in reversed(order[:-1]):
        assert registry.rollback(shop.models_dir) == earlier


def test_an_event_of_a_clock_that_ran_ahead_does_not_make_the_rest_history(shop: Workspace, clock: Clock) -> None:
    view = {"user_id": "u02", "item_id": "tea-1", "event": "view"}
    add_events(shop, [view | {"timestamp": datetime.now(UTC)}], source="test")  # a shop that lives
    before = present(shop)
    clock.to(FAR)
    add_events(shop, [view | {"timestamp": FAR}], source="test")
    assert present(shop) >= int(FAR.timestamp())
    clock.back()
    assert before <= present(shop) < before + 3_600 and (log_end(shop) or 0) <= before + 1
    slate = open_recommender(shop).recommend("u02", k=3)[0]
    assert slate.as_of < datetime.now(UTC) + timedelta(hours=1) and slate.items
    clock.back(hours=1)
    assert present(shop) == log_end(shop), "what was written before the clock went back has happened"
    clock.to(datetime(1970, 1, 2, tzinfo=UTC))  # a machine that does not know the time yet
    assert present(shop) == int(FAR.timestamp()) + 1


def test_what_a_clock_that_ran_ahead_wrote_is_not_learned_from(shop: Workspace, clock: Clock) -> None:
    clock.to(FAR)
    row = {"user_id": "u02", "item_id": "tea-1", "event": "purchase", "timestamp": FAR}
    add_events(shop, [row], source="test")
    clock.back()
    trained = train_workspace(shop, encoder=ToyEncoder(), n_windows=2, epochs=1, min_steps=20)
    until = datetime.fromisoformat(load_model(shop.models_dir).training["until"])
    assert trained.rows == PEOPLE_EVENTS and until < datetime.now(UTC)


def test_retention_by_a_clock_that_ran_ahead_deletes_nothing(folder: Path, clock: Clock) -> None:
    settings = folder / "workspace.toml"
    text, days = settings.read_text(), (datetime.now(UTC) - faults.LAST_DAY).days + 400
    settings.write_text(text.replace("group_floor = 3", f"group_floor = 3\nevent_days = {days}"))
    with Workspace.open(folder) as shop:
        assert shop.policy.event_days == days
        before = len(shop.gate().dataset(Purpose.ANALYTICS).events)
        clock.to(FAR)
        assert len(shop.gate().dataset(Purpose.ANALYTICS).events) == 0 < before
        refresh(shop)
        assert open_recommender(shop).recommend("u02", k=3)[0].items
        clock.back()
        assert len(shop.gate().dataset(Purpose.ANALYTICS).events) == before
        refresh(shop)
        assert len(open_recommender(shop, everybody=True).dataset.events) == before


def test_logs_stay_sane_while_the_clock_jumps(shop: Workspace, clock: Clock) -> None:
    file = campaign.file(shop.root, "c")
    clock.to(FAR)
    texts = campaign.plan(shop, file)
    decide(open_campaign(shop, file), TextStatus.APPROVED, texts, by="Ann", at=FAR)
    clock.back(hours=1)
    earlier = datetime.now(UTC) + clock.offset
    decide(open_campaign(shop, file), TextStatus.REJECTED, texts[:1], by="Bob", at=earlier)
    states = open_campaign(shop, file).states
    assert states[texts[0]].action is TextStatus.REJECTED, "the last word counts, whatever its date"
    files = CampaignFolder.of(shop.root, "c")
    with files.locked():
        assert len(list(read_log(files.decisions))) == len(texts) + 1
    clock.back()
    assert campaign.export(shop, file) > 0
    recommender = open_recommender(shop)
    for jump in (clock.back, lambda: clock.to(FAR), lambda: clock.back(hours=1)):
        jump()
        slates = recommender.recommend(["u02", "u03"], k=2)
        assert record_shown(shop, slates) == 4
        answers = [
            {"user_id": s.user_id, "item_id": s.items[0].item_id, "event": "click", "request_id": s.request_id}
            for s in slates
        ]
        add_events(shop, [row | {"timestamp": datetime.now(UTC) + clock.offset} for row in answers], source="test")
    clock.back()
    for outcome in feedback_report(shop):
        assert 0 <= outcome.clicked <= outcome.showings and 0 <= outcome.ctr.low <= outcome.ctr.high <= 1


def page_of(store: Path, name: str, leaf: bytes) -> int:
    """Where a leaf page of a table or index begins in the file."""
    content = store.read_bytes()
    with closing(sqlite3.connect(store)) as database:
        pages = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    todo = list(pages)
    while todo:
        start = (todo.pop() - 1) * 4096
        page = content[start : start + 4096]
        if page[:1] == leaf:
            return start
        cells = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(int.from_bytes(page[3:5], "big"))]
        todo += [int.from_bytes(page[cell : cell + 4], "big") for cell in cells[:1]]
    raise AssertionError(name)


def zero_a_page(store: Path) -> None:
    content = bytearray(store.read_bytes())
    for name, leaf in (("events", b"\x0d"), ("events_by_user", b"\x0a")):
        start = page_of(store, name, leaf)
        content[start : start + 4096] = bytes(4096)
    store.write_bytes(content)


def spoil_the_schema(store: Path) -> None:
    """Of which SQLite quotes a part that is no text any more."""
    content = store.read_bytes()
    start = content.index(b"CREATE TABLE items")
    named = content.rindex(b"tableitemsitems", 0, start)
    spoiled = b"table" + b"\xff" * 10 + content[named + 15 : start] + b"\xff" * 12
    store.write_bytes(content[:named] + spoiled + content[start + 12 :])


def spoil_a_text(store: Path) -> None:
    """Of which SQLite's checks know nothing."""
    content = store.read_bytes()
    assert content.count(b"Green tea 3") >= 1
    store.write_bytes(content.replace(b"Green tea 3", b"Green \xff\xfe\xfd 3"))


@pytest.mark.parametrize("damage", [zero_a_page, spoil_the_schema, spoil_a_text])
def test_a_damaged_store_serves_nothing(folder: Path, damage: Callable[[Path], None], command: Command) -> None:
    store = folder / "store.sqlite"
    with closing(sqlite3.connect(store)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = store.read_bytes()
    damage(store)
    with Workspace.open(folder) as shop:
        serve = partial(open_recommender, shop, recompute=True)
        for do in (lambda: shop.gate().dataset(Purpose.ANALYTICS), serve, partial(refresh, shop)):
            with pytest.raises(StoreError, match="is damaged; put a backup in its place") as caught:
                do()
            assert "\n" not in str(caught.value) and "Green" not in str(caught.value)
    code, out, err = command("explain", "-w", str(folder))
    assert code == 1 and not out and "is damaged" in err
    assert command("models", "-w", str(folder))[0] == 0, "what needs no store goes on"
    store.write_bytes(whole)
    with Workspace.open(folder) as shop:
        assert open_recommender(shop).recommend("u02", k=1)[0].items


WRITER = """
import sys
sys.path[:0] = sys.argv[3:]
import faults
from datetime import datetime, UTC
name, root = sys.argv[1], faults.Path(sys.argv[2])
load, campaign = faults.Load(), faults.Campaign()
file = campaign.file(root, "shared")
with faults.Workspace.open(root) as shop:
    steps = [next(load.steps(root, int(name) * 10 + n)) for n in range(3)]
    print("ready", flush=True)
    sys.stdin.readline()
    for step in steps:
        step.do()
        faults.publish_recommender(shop, faults.load_model(shop.models_dir), faults.ToyEncoder())
        text = faults.open_campaign(shop, file).plan.texts[int(name) % 2]
        opened, approved = faults.open_campaign(shop, file), faults.TextStatus.APPROVED
        faults.decide(opened, approved, [text.id], by=name, at=datetime.now(UTC))
"""


def test_two_processes_load_publish_and_decide_at_once(folder: Path) -> None:
    """Each waits for the other, and both complete."""
    with Workspace.open(folder) as shop:
        texts = campaign.plan(shop, campaign.file(folder, "shared"))
        before = len(registry.versions(shop.models_dir))
    assert len(texts) > 1
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}
    places = [str(HERE.parent / "eval"), str(HERE)]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    commands = [[sys.executable, "-c", WRITER, name, str(folder), *places] for name in ("1", "2")]
    writers = [subprocess.Popen(command, text=True, env=environment, **pipes) for command in commands]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
    said = at_once(*(lambda writer=writer: writer.communicate("go\n")[1] for writer in writers))
    assert [writer.returncode for writer in writers] == [0, 0], said
    with Workspace.open(folder) as shop:
        n_events = faults.query(shop, "SELECT count(*) FROM events WHERE basket_id LIKE 'f%'")[0][0]
        assert n_events == 6 * (faults.Load.ROWS - faults.Load.BAD)
        assert len(registry.versions(shop.models_dir)) == before + 6
        assert faults.unserved(shop, [], interrupted=False) == []
        with CampaignFolder.of(folder, "shared").locked():
            decided = [line["by"] for line in read_log(CampaignFolder.of(folder, "shared").decisions)]
        assert sorted(decided) == ["1"] * 3 + ["2"] * 3
        assert faults.damage_of_file(shop) == []


def test_both_sides_give_up_what_nobody_answers_within_a_minute(postgres_server: PostgresServer) -> None:
    """The system itself would go on trying for a quarter of an hour, and the server would hold the lock as long."""
    with closing(Store.open(postgres_server.url(), create=True)) as store, store._engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.info.get_parameters()["tcp_user_timeout"] == "60000"
        assert connection.exec_driver_sql("SHOW tcp_user_timeout").scalar() in ("1min", "60s", "60000ms", "60000")
    url = postgres_server.url() + "&tcp_user_timeout=5000"
    with closing(Store.open(url, create=True)) as store, store._engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver.info.get_parameters()["tcp_user_timeout"] == "5000"


def test_no_memory_in_a_training_leaves_the_serving_model(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    before, files = registry.current(shop.models_dir), files_of(shop.root, leave_out=".lock")
    monkeypatch.setattr("recllm.learn.training.scorer.SMALL_SHOP", 1)

    def out_of_memory(line: str) -> None:
        if line.startswith("epoch"):
            raise MemoryError

    arguments: dict[str, Any] = {"encoder": ToyEncoder(), "n_windows": 2, "epochs": 1, "min_steps": 20}
    with pytest.raises(MemoryError):
        train_workspace(shop, progress=out_of_memory, **arguments)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("recllm.recommend.recommender.shop_states.save_state", lambda *_, **__: out_of_memory("epoch"))
        train_workspace(shop, **arguments)
    assert registry.current(shop.models_dir) == before
    assert files_of(shop.root, leave_out=".lock") == files
    trained = train_workspace(shop, **arguments)
    assert open_recommender(shop).recommend("u02", k=1)[0].model_version == trained.model_version
