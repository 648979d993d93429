"""Certificates of erasures: what is gone, what is left to do and until when; signed by the workspace."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, with_config

from recllm.base.documents import plain
from recllm.base.errors import DataError
from recllm.base.files import PRIVATE, write_whole
from recllm.shop.workspace.personal_records import PersonalRecords
from recllm.shop.workspace.workspace import CERTIFICATES, Workspace

CERTIFICATE_FILES = PersonalRecords(
    name="certificates",
    files=(CERTIFICATES,),
    in_backup=True,
    leftovers=(f"{CERTIFICATES}/.*",),
    entries=f"{CERTIFICATES}/*.json",
    days=lambda limits: limits.certificates,
)
"""With pseudonyms, as proof, and notes of erasures that are not complete."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class TaintedModel:
    """A model or effects that learned from one of the people."""

    name: str
    """A model's version, or effects/NAME."""
    use_until: str
    """ISO 8601, UTC: from then on it cannot be opened."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureCertificate:
    """What an erasure did. People are pseudonyms, under the key of that time."""

    certificate_id: str
    at: str
    """ISO 8601, UTC."""
    subjects: tuple[str, ...]
    """Pseudonyms with a tombstone, of the people and of the sessions that were joined to them."""
    unknown: int
    """People of whom there was no row."""
    rows: Mapping[str, int]
    """Table of the store -> rows that were deleted."""
    files: Mapping[str, int]
    """Kind of file -> entries, or files, that were removed."""
    exported_in: tuple[str, ...]
    """Campaigns whose exports had them: those files left the workspace and have to be deleted where they are."""
    models: tuple[TaintedModel, ...]
    database: Mapping[str, bool]
    """Step that makes deleted rows unreadable in the database's files -> whether it was done; else its owner has to."""
    audit_entry: int
    """Number of the audit log's entry about the beginning."""
    beside: tuple[str, ...] = ()
    """Folders next to the workspace that a restore put away, with the people in them: to be deleted."""
    unread: tuple[str, ...] = ()
    """Files that could not be read and may still hold them: the next erasure, or retention, tries them again."""
    unknown_files: tuple[str, ...] = ()
    """Files in the workspace's folder that recllm did not write and did not search."""
    signature: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    """HMAC-SHA256 over all else, keyed by the workspace."""


def issue(workspace: Workspace, certificate: ErasureCertificate) -> ErasureCertificate:
    """Signs a certificate and keeps it in the workspace."""
    signed = plain(certificate)
    signed["signature"] = signature_of(workspace.signing_key("certificate"), signed)
    folder = workspace.root / CERTIFICATES
    folder.mkdir(mode=0o700, exist_ok=True)
    write_whole(folder / f"{certificate.certificate_id}.json", json.dumps(signed, indent=1) + "\n", mode=PRIVATE)
    return replace(certificate, signature=signed["signature"])


def read_certificate(workspace: Workspace, file: Path) -> ErasureCertificate:
    """A certificate whose signature holds.

    Raises `DataError` for a file that is none, that was changed, or that another workspace signed.
    """
    try:
        fields: dict[str, Any] = json.loads(content := file.read_bytes())
        certificate = TypeAdapter(ErasureCertificate).validate_json(content, strict=True)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: no certificate of an erasure: {str(error).splitlines()[0]}") from error
    keys = workspace.signing_keys("certificate")
    if not any(hmac.compare_digest(signature_of(key, fields), certificate.signature) for key in keys):
        raise DataError(
            f"{file}: the signature does not hold: it was changed, or another workspace, or key, signed it; "
            "see the audit log for what was erased: recllm privacy audit"
        )
    return certificate


def signature_of(key: bytes, fields: Mapping[str, Any]) -> str:
    """HMAC-SHA256 over all fields but the signature."""
    body = {name: value for name, value in fields.items() if name != "signature"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()
