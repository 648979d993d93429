"""Sign-in through a directory in a real browser, which keeps cookies from other sites and obeys the content policy: the
console is at localhost and the provider at 127.0.0.1, another site. Needs what `test_console_browser` needs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider, running_provider
from service_world import app_of, listening
from test_console_browser import ROOM, driver, errors, faults, find, resize, text_of  # noqa: F401
from waiting import until

from recllm.shop.workspace.workspace import Workspace


@pytest.fixture
def directory() -> Iterator[Provider]:
    with running_provider(has_page=True) as provider:
        yield provider


@pytest.fixture
def console(tmp_path: Path, directory: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the console of a shop without data answers."""
    monkeypatch.setenv("RECLLM_OIDC_SECRET", CLIENT_SECRET)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        address = f"http://localhost:{bound.getsockname()[1]}"
        directory.redirect_uri = f"{address}/sign-in/oidc"
        oidc = {"issuer": directory.issuer, "client_id": CLIENT_ID, "redirect_uri": directory.redirect_uri}
        oidc |= {"allowed_domains": ["shop.example"], "timeout_seconds": 120.0}
        Workspace.create(tmp_path / "shop", encoder="toy", oidc=oidc).close()
        with listening(app_of(tmp_path / "shop", console=True), bound):
            yield address


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_a_browser_signs_in_and_out(driver: Any, console: str, directory: Provider, scripts: bool) -> None:  # noqa: F811
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    try:
        driver.get(f"{console}/settings")
        find(driver, "a[href^='/sign-in/oidc/']").click()
        until(lambda: driver.current_url.startswith(directory.issuer))
        find(driver, "a").click()
        until(lambda: driver.current_url == f"{console}/settings")
        assert find(driver, "form .wide-only").text == "anna@shop.example"
        find(driver, "form[action='/sign-out'] button").click()
        until(lambda: driver.current_url == f"{console}/sign-in")
        driver.get(f"{console}/settings")
        assert driver.current_url.startswith(f"{console}/sign-in?")
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_page_goes_by_way_of_the_directory_and_comes_back(
    driver: Any,  # noqa: F811
    console: str,
    directory: Provider,
    tmp_path: Path,
) -> None:
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    driver.get(f"{console}/settings")
    find(driver, "a[href^='/sign-in/oidc/']").click()
    until(lambda: driver.current_url.startswith(directory.issuer))
    find(driver, "a").click()
    until(lambda: driver.current_url == f"{console}/settings")
    (path,) = (tmp_path / "shop" / "console-sessions").iterdir()
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content | {"proven_at": content["proven_at"] - 1_900}), "utf-8")
    driver.get(f"{console}/settings?page=2")
    until(lambda: driver.current_url.startswith(directory.issuer))
    find(driver, "a").click()
    until(lambda: driver.current_url == f"{console}/settings?page=2")
    assert find(driver, "form .wide-only").text == "anna@shop.example"
    (after,) = (tmp_path / "shop" / "console-sessions").iterdir()
    assert after != path


@pytest.mark.parametrize("width", [width for width, _ in ROOM])
def test_the_page_of_sign_in_is_within_reach(driver: Any, console: str, width: int) -> None:  # noqa: F811
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    resize(driver, width)
    driver.get(f"{console}/sign-in")
    errors(driver)
    assert not faults(driver) and "Sign in with 127.0.0.1" in text_of(driver, "main")
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    driver.get(f"{console}/sign-in/oidc?state=guess")
    assert not faults(driver) and "Begin again here" in text_of(driver, "[role=alert]")
