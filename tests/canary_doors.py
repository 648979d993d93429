"""Doors for a person with marks that `test_erasure.through_every_door` does not have: campaigns of odd names, webhooks,
experiments, predictions, files of refused rows, batches, and work that was killed in the middle; and what is left of
the person after an erasure."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from canaries import MARK, canary, hits
from fastapi.testclient import TestClient
from service_world import serving
from standardwebhooks import Webhook
from test_erasure import CAMPAIGN, WHO, through_every_door
from waiting import until

from recllm.doors.console.data import receive_upload
from recllm.doors.privacy.backup import back_up
from recllm.doors.privacy.erasure import erase_people
from recllm.market.experiments.batch import BatchRun, run_batch
from recllm.shop.ingest.workspace_load import load_file
from recllm.shop.workspace.webhooks import WebhookScheme, add_source
from recllm.shop.workspace.workspace import Workspace

ADDRESS = "zzcanary.ann@shop.example"
"""Id of a second person, as it stands in rows that could not be read."""
IN_ROWS = (
    *("{}", "({})", "{}.", "?e={}&b=1", "/u/{}/", "'{}'", "<{}>", "mailto:{}", "Ann <{}>", "{} (home)", "e={};"),
    *("x|{}", "zzcanary.ann%40shop.example", "zzcanary.ann&#64;shop.example", "zzcanary.ann@SHOP.example"),
)
"""Forms of the address there, each with the mark."""
ODD_IDS = (".spring", "..spring", "spring.tmp")
"""Of campaigns; a shop may refuse them."""
WEBHOOK_SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KILLED: dict[str, tuple[str, str]] = {
    "backup": (
        "tarfile.TarFile.addfile",
        "from recllm.doors.privacy.backup import back_up\nback_up(shop, folder.parent / 'killed.backup', actor='test')",
    ),
    "evaluation": (
        "recllm.recommend.evaluation.report.measure",
        "from recllm.recommend.evaluation.shop_evaluation import evaluate_workspace\n"
        "evaluate_workspace(shop, slices=('ALL',), baselines=('popular', 'popular-recent'))",
    ),
    "load": (
        "recllm.shop.store.writers.Load.close",
        "from recllm.shop.ingest.workspace_load import load_file\n"
        "load_file(shop, folder.parent / 'refused-again.csv', 'events')",
    ),
}
"""What is done -> where its process is killed, and the code that does it."""


@dataclass(frozen=True)
class Marks:
    """Of people who went through every door and were erased."""

    files: int
    with_marks: int
    """Files before the erasure."""
    unregistered: tuple[str, ...] | None
    """Those of them that belong to no registered place; None where the package has no list of places."""
    after: tuple[str, ...]
    """Path and form of each mark after the erasure. A pseudonym is one, but in the proof of the erasure."""


def marks_of(folder: Path, database: Path | None = None) -> Marks:
    """folder: of a shop of `test_erasure.make_shop`. database: the folder of its server's files."""
    logs = folder.parent / "logs"
    logs.mkdir()
    handler = logging.FileHandler(logs / "log")
    logging.getLogger().addHandler(handler)
    through_every_door(folder, folder.parent)
    through_other_doors(folder, folder.parent)
    roots = [root for root in (folder, logs, database) if root is not None]
    with Workspace.open(folder) as shop:
        names = shop.pseudonymiser().many([WHO, ADDRESS])
        before = {hit.partition(": ")[0] for hit in hits(folder, MARK, *names)}
        erase_people(shop, [WHO, ADDRESS], actor="test")
        after = [hit for root in roots for hit in hits(root)]
        after += [f"{hit} pseudonym" for hit in hits(folder, *names)]
    logging.getLogger().removeHandler(handler)
    after = [hit for hit in after if not re.match(r"(certificates/|store\.sqlite).* pseudonym$", hit)]
    n_files = sum(path.is_file() for root in roots for path in root.rglob("*"))
    return Marks(n_files, len(before), _unregistered(before), tuple(sorted(set(after))))


def _unregistered(paths: Iterable[str]) -> tuple[str, ...] | None:
    try:
        from recllm.doors.privacy.registry import REGISTRY
    except ImportError:
        return None
    of_people = REGISTRY.records
    return tuple(
        path for path in sorted(paths) if not any(place in of_people for place in REGISTRY.owners(PurePath(path)))
    )


def through_other_doors(folder: Path, scratch: Path) -> None:
    """scratch: outside of the workspace."""
    with Workspace.open(folder) as shop:
        name = shop.pseudonymiser().one(WHO)
        add_source(shop, "mail", WebhookScheme.STANDARD, WEBHOOK_SECRET)
        (message, _), *_ = shop.store().messages_of(name)
        cells = [form.format(ADDRESS) for form in IN_ROWS]
        rows = [f'"{cell}",tea1,purchase,not a time,b' for cell in cells]
        rows += [f'u02,tea1,purchase,not a time,"{cell}"' for cell in cells]
        rows += [f"u{n % 99 + 1:02},tea1,view,2024-02-19T10:{n // 60:02}:{n % 60:02}Z," for n in range(1_500)]
        content = "\n".join(["user_id,item_id,event,timestamp,basket_id", *rows, ""])
        (scratch / "refused-again.csv").write_text(content)
        assert load_file(shop, scratch / "refused-again.csv", "events").quarantined == 2 * len(cells)
        receive_upload(shop, io.BytesIO(content.encode()), f"{canary('file')}.csv")
        run_batch(BatchRun.plan(shop, scratch / "batch", {"k": 3, "explain": True}, shards=2))
        back_up(shop, scratch / "shop.backup", actor="test")
    with serving(folder, console=True) as client:

        def ask(path: str, **body: Any) -> Any:
            answer = client.post(path, json=body)
            assert answer.status_code in (200, 202), (path, answer.text)
            return answer.json()

        for odd_id in ODD_IDS:
            _send_campaign(client, CAMPAIGN | {"id": odd_id})
        events = [
            {"user_id": WHO, "item_id": "tea3", "event": event} for event in ("dismiss", "cart", "favourite", "return")
        ]
        ask("/v1/events", events=[*events, {"user_id": ADDRESS, "item_id": "tea1", "event": "purchase"}])
        ask("/v1/users", users=[{"user_id": ADDRESS, "basics": {"note": canary("note")}}])
        variants = [{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5, "treatment": {"personal": False}}]
        ask("/v1/experiments", name="spring", variants=variants)
        ask("/v1/recommend", user_id=WHO, record=True)
        ask("/v1/users/restrict", user_id=WHO, restricted=True)
        ask("/v1/users/restrict", user_id=WHO, restricted=False)
        ask("/v1/predict", kind="leave", horizon_days=3, ids=[WHO])
        _wait(client, ask("/v1/occasions", ids=[WHO]))
        for path in ("/v1/report", "/v1/experiments/spring", "/v1/campaigns/tea/report", f"/people/{name}", "/people"):
            assert client.get(path).status_code == 200, path
        data = {"recllm_message_id": message.message_id, "to": ADDRESS, "note": canary("webhook")}
        for kind in ("delivered", "clicked", "bounced", "complained"):
            report = json.dumps({"type": f"message.{kind}", "data": data})
            called, now = f"{canary('call')}_{kind}", datetime.now(UTC)
            signature = Webhook(WEBHOOK_SECRET).sign(called, now, report)
            headers = {
                "webhook-id": called,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": signature,
            }
            assert client.post("/webhooks/shop/mail", content=report, headers=headers).status_code == 200
    for work in KILLED:
        killed_while(work, folder)


def _send_campaign(client: TestClient, campaign: dict[str, Any]) -> None:
    """From its fields to its files, as far as the shop takes it."""
    draft = client.post("/v1/campaigns", json={"campaign": campaign})
    if draft.status_code != 201:
        return
    path = f"/v1/campaigns/{campaign['id']}"
    _wait(client, client.post(f"{path}/plan", json={"revision": draft.json()["revision"]}).json())
    planned = client.get(path).json()
    decision = {"decision": "approve", "text_ids": [text["id"] for text in planned["texts"]]}
    decided = client.post(f"{path}/decisions", json=decision | {"revision": planned["revision"]}).json()
    exported = client.post(f"{path}/export", json={"revision": decided["revision"], "ids": [WHO]})
    assert exported.status_code == 200, exported.text


def _wait(client: TestClient, job: dict[str, Any]) -> None:
    until(lambda: client.get(f"/v1/jobs/{job['job_id']}").json()["state"] in ("done", "failed"))


def killed_while(work: str, folder: Path) -> None:
    """A process of its own does the work and is killed in the middle of it."""
    place, code = KILLED[work]
    lines = (
        "import os, pathlib",
        "from unittest import mock",
        "from recllm.shop.workspace.workspace import Workspace",
        f"folder = pathlib.Path({str(folder)!r})",
        f"mock.patch({place!r}, lambda *_, **__: os.kill(os.getpid(), {int(signal.SIGKILL)})).start()",
        "shop = Workspace.open(folder)",
        code,
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2_000:]
