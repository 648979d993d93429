"""The folder of a shop: made once, opened often, never half there. Also the rules that it may override."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import table
from waiting import at_once

from recllm.base.errors import PromptError, StoreError, UsageError
from recllm.base.files import safe_id
from recllm.base.policy import Policy
from recllm.base.schema import Purpose
from recllm.shop.workspace.workspace import SETTINGS_FILE, STORE_FILE, Workspace


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECLLM_KEY", raising=False)
    monkeypatch.delenv("RECLLM_KEY_FILE", raising=False)
    monkeypatch.delenv("RECLLM_STORE_URL", raising=False)


def test_what_is_created_is_what_is_opened(tmp_path: Path) -> None:
    made = Workspace.create(
        tmp_path / "a" / "shop",
        consent_default=True,
        currency="EUR",
        timezone="Asia/Shanghai",
        encoder='my "own"\\folder\n',
        locale="zh-CN",
        tenant="shop-1",
        policy={"group_floor": 5, "reject_limit": 0.1, "sensitive_categories": ["Tea"], "explicit_purposes": ["sms"]},
    )
    opened = Workspace.open(tmp_path / "a" / "shop")
    assert opened.settings == made.settings
    assert opened.policy.group_floor == 5
    assert opened.policy.sensitive_categories == {"tea"}
    assert opened.policy.explicit_purposes == {Purpose.SMS}
    assert opened.pseudonymiser().one("7") == made.pseudonymiser().one("7")
    assert opened.store() is opened.store()
    assert opened.gate().permits("nobody", Purpose.EMAIL) is True
    for folder in (opened.quarantine_dir, opened.models_dir, opened.cache_dir):
        assert folder.is_dir()
    assert (opened.root / STORE_FILE).is_file()
    opened.close()


def test_consent_is_denied_unless_said(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "shop") as workspace:
        assert workspace.settings.consent_default is False
        assert workspace.gate().permits("nobody", Purpose.PERSONALISATION) is False


def test_an_existing_workspace_is_never_made_again(tmp_path: Path) -> None:
    first = Workspace.create(tmp_path, currency="EUR").pseudonymiser().one("7")
    with pytest.raises(StoreError, match="is a workspace already"):
        Workspace.create(tmp_path, currency="USD")
    again = Workspace.create(tmp_path, exist_ok=True, currency="USD")
    assert again.settings.currency == "EUR"
    assert again.pseudonymiser().one("7") == first


def test_a_missing_workspace_names_the_remedy(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(StoreError, match=r"no workspace in .*recllm init -w"):
            Workspace.open(path)
    assert not (tmp_path / "none").exists()


def test_an_interrupted_creation_can_be_repeated(tmp_path: Path) -> None:
    done = Workspace.create(tmp_path)
    pseudonym = done.pseudonymiser().one("7")
    (tmp_path / SETTINGS_FILE).unlink()  # as if killed before the last step
    assert Workspace.create(tmp_path).pseudonymiser().one("7") == pseudonym


def test_of_many_creators_one_makes_the_workspace(tmp_path: Path) -> None:

    def create(tenant: str) -> tuple[str, str] | None:
        try:
            with Workspace.create(tmp_path / "shop", tenant=tenant) as workspace:
                return tenant, workspace.pseudonymiser().one("7")
        except StoreError as error:
            assert "is a workspace already" in str(error)
            return None

    opened = at_once(*(partial(create, f"t{n}") for n in range(6)))
    with Workspace.open(tmp_path / "shop") as workspace:
        made = workspace.settings.tenant, workspace.pseudonymiser().one("7")
    assert [one for one in opened if one] == [made]


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot make a workspace"):
        Workspace.create(tmp_path / "file" / "shop")


@pytest.mark.parametrize("wrong", [*table("workspace", "wrong settings"), {"policy": {"reject_limit": float("nan")}}])
def test_wrong_settings_are_refused_before_anything_is_made(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Workspace.create(tmp_path / "shop", **wrong)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"not toml", b"\xff\xfe", b'key_fingerprint = "0"\ncurrency = "euro"', b'key_fingerprint = "0"\nx = 1'],
)
def test_a_damaged_settings_file_is_named(tmp_path: Path, content: bytes) -> None:
    Workspace.create(tmp_path)
    (tmp_path / SETTINGS_FILE).write_bytes(content)
    with pytest.raises(StoreError, match=SETTINGS_FILE):
        Workspace.open(tmp_path)


def test_another_key_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong key every known person would come back as a stranger."""
    workspace = Workspace.create(tmp_path)
    monkeypatch.setenv("RECLLM_KEY", "some other key, long enough")
    with pytest.raises(StoreError, match="not the one that the workspace"):
        workspace.pseudonymiser()
    monkeypatch.delenv("RECLLM_KEY")
    workspace.key_path.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        workspace.pseudonymiser()


def test_a_key_from_the_environment_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "a long enough secret from a vault"
    monkeypatch.setenv("RECLLM_KEY", secret)
    workspace = Workspace.create(tmp_path)
    workspace.pseudonymiser()
    assert not workspace.key_path.exists()
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret not in repr(workspace) + repr(workspace.settings)


def test_an_unknown_locale_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="unknown locale 'de'; there are: en, zh"):
        Workspace.create(tmp_path / "shop", locale="de")
    assert not (tmp_path / "shop").exists()


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_the_folder_is_private(tmp_path: Path) -> None:
    made, empty, own, shared = (tmp_path / name for name in ("made", "empty", "own", "shared"))
    for folder, mode in ((empty, 0o755), (own, 0o700), (shared, 0o755)):
        folder.mkdir(mode)
        folder.chmod(mode)
    for folder in (own, shared):
        (folder / "notes.txt").write_text("x")
        (folder / "notes.txt").chmod(0o644)
    for folder in (made, empty, own):
        workspace = Workspace.create(folder)
        assert workspace.root.stat().st_mode & 0o777 == 0o700
        for path in workspace.root.iterdir():
            if path.name != "notes.txt":
                assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    with pytest.raises(StoreError, match=f"chmod 700 {shared}"):
        Workspace.create(shared)
    assert [path.name for path in shared.iterdir()] == ["notes.txt"] and shared.stat().st_mode & 0o777 == 0o755


@given(st.text(max_size=80))
def test_safe_ids_stay_in_their_folder(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = Path("/root/folder")
    try:
        name = safe_id(text, "id")
    except UsageError:
        return
    assert (root / name).resolve().parent == root.resolve()


@pytest.mark.parametrize(
    "text", ["..", ".", "", "a/b", "a\\b", "../../etc", "a\0b", "é", "a" * 65, "x\n", "%2e%2e", "~"]
)
def test_unsafe_ids_are_named_and_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"load id .* is not a safe name"):
        safe_id(text, "load id")


def test_sensitive_categories_are_whole_words_in_any_case() -> None:
    policy = Policy()
    for path in (["DRUG GM", "Diabetes Care"], ["LIQUOR"], ["成人用品专区"], ["Health & Beauty"]):
        assert policy.is_sensitive(path), path
    for path in (["Grocery", "Healthy snacks"], ["Ginger liqueur-free cake"], ["运动鞋"], []):
        assert not policy.is_sensitive(path), path
