"""The console in a real browser: nothing is out of reach of keyboard and screen reader, no page is wider than a phone,
scripts make it smoother, and everything works without them. Needs Chromium and its driver (Debian: `apt-get install
chromium chromium-driver`); skips without, and `RECLLM_TEST_BROWSER=required` makes that a failure."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from console_world import SHOP_ID
from service_world import app_of, listening
from tables import table
from waiting import until

from recllm.doors.start.shop import start_page

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
PAGES = ("/", "/people", "/items", "/items/item/tea-1", "/items/item/bad-37", "/models", "/data")
PAGES += ("/settings", "/sign-in", "/people/list/replenish", "/nothing")
ROOM = ((360, "en"), (1280, "zh"))
"""Width in pixels and language: longer words on a phone, and wider letters."""


@pytest.fixture(scope="module")
def driver(browser: Any) -> Any:
    """The headless browser, without what other tests left in it."""
    browser.get("about:blank")
    browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser.get_log("browser")
    return browser


@pytest.fixture(scope="module")
def address(console_shop: Path, tmp_path_factory: pytest.TempPathFactory, driver: Any) -> Iterator[str]:
    """Where the console of the small shop answers."""
    folder = Path(shutil.copytree(console_shop, tmp_path_factory.mktemp("browser") / "shop"))
    with listening(app_of(folder, console=True)) as (host, port):
        address = f"http://{host}:{port}"
        until(lambda: httpx2.get(f"{address}/readyz", trust_env=False).status_code == 200)
        yield address


def resize(driver: Any, width: int, *, dark: bool = False) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def find(driver: Any, selector: str) -> Any:
    return driver.find_element("css selector", selector)


def text_of(driver: Any, selector: str) -> str:
    """The text of an element, which may be exchanged meanwhile; "" where there is none."""
    script = "const element = document.querySelector(arguments[0]); return element ? element.innerText : ''"
    return str(driver.execute_script(script, selector))


def open_person(driver: Any, address: str, shop_id: str = SHOP_ID) -> None:
    driver.get(f"{address}/people")
    find(driver, "#user_id").send_keys(shop_id)
    find(driver, "main form button").click()
    until(lambda: "/people/u1_" in driver.current_url)


def faults(driver: Any) -> list[str]:
    """What axe calls serious or critical, each with the first element that it means."""
    until(lambda: not driver.find_elements("css selector", ".htmx-request"))  # what is being loaded is dimmed
    driver.execute_script(AXE.read_text("utf-8"))
    result = driver.execute_async_script(
        "const done = arguments[0]; axe.run().then(r => done(r.violations)).catch(e => done(String(e)))"
    )
    assert isinstance(result, list), result
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0]['failureSummary'][:300]}"
        for v in result
        if v["impact"] in ("serious", "critical")
    ]


def errors(driver: Any) -> list[str]:
    """What the browser complained of since the last time, but pages that are meant to be missing."""
    return [
        e["message"] for e in driver.get_log("browser") if e["level"] == "SEVERE" and "status of 4" not in e["message"]
    ]


def all_faults(driver: Any) -> list[str]:
    """Of the page, with everything opened, its width too."""
    for details in driver.find_elements("css selector", "main details"):
        driver.execute_script("arguments[0].open = true", details)
    until(lambda: not driver.find_elements("css selector", ".htmx-request"))
    overflow = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    wide = [f"{overflow} px wider than the window"] if overflow > 0 else []
    return [*map(str, faults(driver)), *map(str, errors(driver)), *wide]


def test_the_first_page_fits_a_phone(driver: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(start_page(table("start", "record") | {"locale": "en"}))
    resize(driver, 360)
    driver.get((tmp_path / "report.html").as_uri())
    driver.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(("width", "language"), ROOM)
def test_every_page_is_for_everybody(driver: Any, address: str, width: int, language: str) -> None:
    resize(driver, width, dark=language == "zh")
    driver.get(f"{address}/language/{language}?after=/")
    until(lambda: find(driver, "main").text and not driver.find_elements("css selector", "#figures[hx-get]"))
    errors(driver)
    problems = {}
    for path in (*(PAGES if width == 360 else PAGES[::3]), "person"):
        if path == "person":
            open_person(driver, address)
        else:
            driver.get(address + path)
        problems[path] = all_faults(driver)
    assert not {path: found for path, found in problems.items() if found}


def test_scripts_make_what_if_smoother(driver: Any, address: str) -> None:
    resize(driver, 1280)
    driver.get(f"{address}/language/en?after=/people")
    open_person(driver, address, "u02")
    errors(driver)
    before = driver.current_url
    find(driver, "#recommendations > details summary").click()
    for box in driver.find_elements("css selector", "#recommendations input[name=without]")[:2]:
        box.click()
    find(driver, "#recommendations form[method=get] button").click()
    until(lambda: "As if 2 things had never happened." in text_of(driver, "#recommendations"))
    assert driver.current_url == before  # a part of the page was exchanged
    assert not errors(driver)
    find(driver, "#recommendations form[method=get] button").click()  # what came in acts as well
    until(
        lambda: (
            "As if 2" in text_of(driver, "#recommendations")
            and not driver.find_elements("css selector", ".htmx-request")
        )
    )
    assert driver.current_url == before and not errors(driver)


def test_everything_works_without_scripts(driver: Any, address: str) -> None:
    resize(driver, 1280)
    driver.get(f"{address}/language/en?after=/people")
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_person(driver, address, "u02")
        find(driver, "#recommendations > details summary").click()
        find(driver, "#recommendations input[name=without]").click()
        find(driver, "#recommendations form[method=get] button").click()
        until(lambda: "without=" in driver.current_url)
        assert "As if 1 thing had never happened." in text_of(driver, "#recommendations")
        find(driver, "#recommendations .notice a").click()
        until(lambda: "without=" not in driver.current_url)
        find(driver, "#recommendations details.dots summary").click()
        find(driver, "#recommendations button[value=dismiss]").click()
        until(lambda: "notice=dismissed" in driver.current_url)
        assert "Written down: not for them." in find(driver, "#status").text
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_load_reports_by_itself(driver: Any, address: str, tmp_path: Path) -> None:
    rows = "".join(f"n{n},tea-{n % 10},2025-05-01T10:{n % 60:02}:00Z\n" for n in range(25_000))
    (tmp_path / "more.csv").write_text("user_id,item_id,timestamp\n" + rows)
    resize(driver, 360)
    driver.get(f"{address}/data")
    find(driver, "#file").send_keys(str(tmp_path / "more.csv"))
    find(driver, "form[enctype] button").click()
    until(lambda: "/data/upload/" in driver.current_url)
    assert not faults(driver)
    button = find(driver, "button[value=load]")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)  # above the bar of a phone
    button.click()
    until(lambda: "/data/load/" in driver.current_url)
    page = driver.current_url
    with suppress(Exception):  # the moment may be over
        assert not faults(driver)
    until(lambda: "25,000" in text_of(driver, "#load") and not driver.find_elements("css selector", "#load progress"))
    assert driver.current_url == page and not faults(driver) and not errors(driver)


def test_the_keyboard_reaches_the_content_first(driver: Any, address: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    resize(driver, 1280)
    driver.get(f"{address}/people")
    ActionChains(driver).send_keys(Keys.TAB).perform()
    skip = driver.switch_to.active_element
    assert skip.get_attribute("class") == "skip" and skip.rect["x"] >= 0
    skip.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "content"
    ActionChains(driver).send_keys(Keys.TAB).perform()
    assert driver.switch_to.active_element.get_attribute("id") == "user_id"
    driver.switch_to.active_element.send_keys("u02", Keys.ENTER)
    until(lambda: "/people/u1_" in driver.current_url)


def test_an_injected_htmx_attribute_does_nothing(driver: Any, address: str) -> None:
    """Even an element that slipped into a page could not make htmx act without the page's nonce."""
    driver.get(f"{address}/people")
    script = """
        const element = document.createElement('div');
        element.setAttribute('hx-get', '/models'); element.setAttribute('hx-trigger', 'load');
        if (arguments[0]) element.setAttribute('hx-nonce', document.querySelector('script[nonce]').nonce);
        document.querySelector('main').append(element); htmx.process(element);
    """
    driver.execute_script(script, False)
    time.sleep(1)
    assert "Models" not in text_of(driver, "main")
    driver.execute_script(script, True)  # with the nonce it does, so the first one was refused and not just late
    until(lambda: "Models" in text_of(driver, "main"))
    with pytest.raises(Exception, match="TrustedHTML"):
        driver.execute_script("document.querySelector('main').innerHTML = '<b>x</b>'")


def test_the_check_for_everybody_finds_faults(driver: Any, address: str) -> None:
    driver.get(f"{address}/people")
    assert not faults(driver)
    driver.execute_script("document.querySelector('label[for=user_id]').remove()")
    assert any("label" in fault for fault in faults(driver))
