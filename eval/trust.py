"""What is promised about people's data, measured:  python eval/trust.py -o eval/results/trust.json

Each part runs in a process of its own; `--part NAME` runs one and prints it. Kills are a script of
their own, whose results are read from where they were written; what an attacker does stands in attack.py.

    erase       one person and 1,000 are erased on the demonstration (Complete Journey, all 1.47 million rows)
    replace     `recllm retrain` takes the place of the model that learned from them
    audit       1,000 random changes of the audit log, each looked for
    poison      1 % fake accounts, see poisoning.py
    scrub       personal data in texts, 300 with and 300 without, by somebody who has not read the rules
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from inputs import HERE, finish, finished_parts, in_new_process, script_parser, timed

AUDIT_ENTRIES, AUDIT_CHANGES = 60, 1_000
PEOPLE = 1_000

AIMS = {
    "erase_one_s": "<= 10",
    "erase_1000_s": "<= 60",
    "replace_model_s": "<= 600",
    "audit_found": "1,000 of 1,000",
    "poison_lift": "<= 1.5",
    "losses": "0 of 200 kills",
    "scrubber": "recall >= .98, false hits <= .01",
}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), help="run one part and print its figures")
    parser.add_argument("--folder", type=Path, help="the demonstration's trained workspace, if there is one")
    parser.add_argument("--parts", type=Path, help="a folder where finished parts stay; a run that was stopped goes on")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args.folder)))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "shop"
        parts = finished_parts(
            args.parts or Path(scratch),
            PARTS,
            lambda part: in_new_process("trust.py", "--part", part, "--folder", str(folder)),
        )
    for part in parts.values():
        figures |= part["figures"]
    commits = {name: part["commit"] for name, part in parts.items()}
    if (file := HERE / "results" / "faults.json").exists():
        written = json.loads(file.read_text("utf-8"))
        figures |= {key: value for key, value in written.items() if key in ("kills", "losses")}
    finish({"protocol": "trust", "commits": commits, **figures, "aims": AIMS}, args.output)


def demonstration(folder: Path | None) -> Path:
    """The demonstration's workspace with a trained model, made where there is none."""
    from recllm.doors.start.demo import FILES, data_folder
    from recllm.recommend.recommender.train import train_workspace
    from recllm.shop.ingest.workspace_load import load_file
    from recllm.shop.workspace.workspace import Workspace

    folder = folder or Path(tempfile.mkdtemp()) / "shop"
    if not (folder / "workspace.toml").exists():
        with Workspace.create(folder, consent_default=True, currency="USD", timezone="UTC") as shop:
            for name, table, mapping in FILES:
                load_file(shop, data_folder() / f"{name}.parquet", table, mapping=mapping)
            train_workspace(shop)
    return folder


def erase(folder: Path | None) -> dict[str, Any]:
    from recllm.doors.privacy.erasure import erase_people
    from recllm.doors.privacy.registry import export_person
    from recllm.shop.workspace.workspace import Workspace

    spent = {}
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "shop"
        shutil.copytree(demonstration(folder), copy)
        with Workspace.open(copy) as shop:
            with shop.store().read() as reader:
                names = reader.users()["user_id"].to_list()
            rng = np.random.default_rng(0)
            chosen = [names[n] for n in rng.permutation(len(names))]
            spent["export_one_s"] = round(timed(lambda: export_person(shop, chosen[0], by_pseudonym=True))[0], 2)
            for name, some in (("erase_one_s", chosen[:1]), ("erase_1000_s", chosen[1 : PEOPLE + 1])):
                erasing = partial(erase_people, shop, some, actor="eval", by_pseudonym=True)
                seconds, _, certificate = timed(erasing)
                spent[name] = round(seconds, 2)
                spent[f"{name.removesuffix('_s')}_rows"] = sum(certificate.rows.values())
    return spent


def replace_model(folder: Path | None) -> dict[str, Any]:
    from recllm.doors.privacy.erasure import erase_people
    from recllm.recommend.evaluation.retrain import retrain
    from recllm.recommend.recommender.registry import serving, taints
    from recllm.shop.workspace.workspace import Workspace

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "shop"
        shutil.copytree(demonstration(folder), copy)
        with Workspace.open(copy) as shop:
            with shop.store().read() as reader:
                name = reader.users()["user_id"][0]
            erase_people(shop, [name], actor="eval", by_pseudonym=True)
            seconds, _, report = timed(lambda: retrain(shop, needed=(), if_due=True))
            is_replaced = serving(shop.models_dir) == report.challenger and not taints(shop.models_dir)
    reasons = [] if report.gate is None else sorted(report.gate.reasons)
    done = {"replace_model_done": is_replaced, "replace_outcome": report.outcome, "replace_gate": reasons}
    return {"replace_model_s": round(seconds, 1), **done}


def audit_log(_: Path | None) -> dict[str, Any]:
    """Changes of single bytes, entries that are removed, moved, doubled, added or cut off, and of the anchor."""
    from sqlalchemy import text

    from recllm.shop.store.connections import writing
    from recllm.shop.workspace.audit import ANCHOR, AuditAction, audit, verify_audit
    from recllm.shop.workspace.workspace import Workspace

    rng, found = random.Random(0), 0
    with tempfile.TemporaryDirectory() as scratch, Workspace.create(Path(scratch) / "shop") as shop:
        for number in range(AUDIT_ENTRIES):
            audit(shop, "key:1", AuditAction.PERSON_SHOWN, subject=f"u1_{number}", number=number)
        assert verify_audit(shop).problem is None
        rows, anchor = shop.store().audit_entries(), shop.root / ANCHOR
        whole = anchor.read_bytes()

        def put(changed: list[tuple[int, str, str]]) -> None:
            with writing(shop.store()._engine) as connection:
                connection.execute(text("DELETE FROM audit"))
                values = [{"n": n, "e": e, "h": h} for n, e, h in changed]
                if values:
                    connection.execute(text("INSERT INTO audit VALUES (:n, :e, :h)"), values)

        for _ in range(AUDIT_CHANGES):
            put(_changed(rows, anchor, whole, rng))
            found += verify_audit(shop).problem is not None
            anchor.write_bytes(whole)
        put(rows)
        assert verify_audit(shop).problem is None
    return {"audit_mutations": AUDIT_CHANGES, "audit_found": found}


def _changed(rows: list[Any], anchor: Path, whole: bytes, rng: random.Random) -> list[Any]:
    changed, position = list(rows), rng.randrange(len(rows))
    number, entry, digest = rows[position]
    match rng.randrange(8):
        case 0:  # a character of an entry
            at = rng.randrange(len(entry))
            changed[position] = (number, entry[:at] + chr(ord(entry[at]) ^ 1) + entry[at + 1 :], digest)
        case 1:
            at = rng.randrange(len(digest))
            changed[position] = (number, entry, digest[:at] + ("0" if digest[at] != "0" else "1") + digest[at + 1 :])
        case 2:
            del changed[position]
        case 3:  # cut off
            changed = changed[:position]
        case 4:  # one is removed, and the others close the gap
            del changed[position]
            changed = [(n, e, h) for n, (_, e, h) in enumerate(changed, start=1)]
        case 5:  # two change their places
            other = (position + 1 + rng.randrange(len(rows) - 1)) % len(rows)
            (_, e1, h1), (_, e2, h2) = rows[position], rows[other]
            changed[position], changed[other] = (number, e2, h2), (rows[other][0], e1, h1)
        case 6:  # one is added that was once written
            changed.append((len(rows) + 1, entry, digest))
        case 7:  # cut off, and the anchor to match
            changed = changed[:position]
            record = json.loads(whole)
            record |= {"entries": position, "hash": rows[position - 1][2] if position else ""}
            anchor.write_text(json.dumps(record))
    return changed


def poison(_: Path | None) -> dict[str, Any]:
    from poisoning import measure

    return measure()


def scrub(_: Path | None) -> dict[str, Any]:
    from personal_data import measure_sets

    return {"scrubber": measure_sets()}


PARTS = {
    "audit": audit_log,
    "erase": erase,
    "replace": replace_model,
    "poison": poison,
    "scrub": scrub,
}

if __name__ == "__main__":
    main()
