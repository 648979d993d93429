"""Campaigns and experiments in a real browser: for keyboard, screen reader and phone, smoother with scripts, the same
without. Needs what `test_console_browser` needs."""

from __future__ import annotations

import time
from typing import Any

import pytest
from test_console_browser import ROOM, address, driver, errors, faults, find, resize, text_of  # noqa: F401
from waiting import until

GOAL = "Tea for those who drink it"
ADDRESS = "/campaigns/campaign/tea-for-those-who-drink-it"
SENDER = {"name": "Leaf & Iron", "address": "1 Market Street", "opt_out": "https://example.com/stop"}


def press(driver: Any, selector: str) -> None:  # noqa: F811
    button = find(driver, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def draft(driver: Any, address: str) -> None:  # noqa: F811
    driver.get(f"{address}/campaigns")
    if driver.find_elements("css selector", f"a[href='{ADDRESS}']"):
        return
    driver.get(f"{address}/campaigns/new")
    for selector, text in {
        "#f-goal": GOAL,
        "#f-target_items": "tea-1\ntea-2\nbad-0\nbad-36\nbad-37",
        **{f"#f-sender_{name}": text for name, text in SENDER.items()},
    }.items():
        field = find(driver, selector)
        field.clear()
        field.send_keys(text)
    press(driver, "main form button")
    until(lambda: ADDRESS in driver.current_url)


def plan(driver: Any, address: str) -> None:  # noqa: F811
    driver.get(address + ADDRESS)
    if not driver.find_elements("css selector", ".textgroup"):
        press(driver, f"form[action='{ADDRESS}/plan'] button")
        until(lambda: driver.find_elements("css selector", "#job a[role=button]") or "waits" in driver.page_source)
        driver.get(address + ADDRESS)
    assert driver.find_elements("css selector", ".textgroup")


def test_the_count_appears_while_one_types(driver: Any, address: str) -> None:  # noqa: F811
    resize(driver, 1280)
    draft(driver, address)
    driver.get(f"{address}{ADDRESS}?step=who")
    errors(driver)
    size = find(driver, "#f-limits_size")
    size.clear()
    size.send_keys("7")
    until(lambda: "7\nof them" in text_of(driver, "#count"))
    assert "people could be reached" in text_of(driver, "#count") and not errors(driver)
    assert find(driver, "#f-limits_size").get_attribute("value") == "7"  # what is typed stays
    find(driver, "#f-limits_size").send_keys("x")
    until(lambda: "type a whole number" in text_of(driver, "#count"))


def test_a_wording_is_checked_while_one_types(driver: Any, address: str) -> None:  # noqa: F811
    resize(driver, 1280)
    draft(driver, address)
    plan(driver, address)
    errors(driver)
    details = find(driver, ".variant details")
    driver.execute_script("arguments[0].open = true; arguments[0].scrollIntoView()", details)
    area = details.find_element("css selector", "textarea")
    area.clear()
    area.send_keys("Tea\nNow\nThe best tea in the world for 0.01 EUR <img src=x onerror=alert(1)>")
    verdict = ".variant details [id^=check-]"
    until(lambda: "cannot go" in text_of(driver, verdict))
    assert "onerror" in text_of(driver, verdict) and not errors(driver)


@pytest.mark.parametrize(("width", "language"), ROOM)
def test_pages_are_for_everybody(driver: Any, address: str, width: int, language: str) -> None:  # noqa: F811
    resize(driver, width, dark=language == "zh")
    driver.get(f"{address}/language/en?after=/people")
    draft(driver, address)
    plan(driver, address)
    driver.get(f"{address}/language/{language}?after=/people")
    problems = {}
    for path in ("/campaigns", "/campaigns/new", ADDRESS, f"{ADDRESS}/export", "/experiments", "/experiments/new"):
        driver.get(address + path)
        for details in driver.find_elements("css selector", "main details"):
            driver.execute_script("arguments[0].open = true", details)
        time.sleep(0.1)
        problems[path] = faults(driver) + errors(driver)
        overflow = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        if overflow > 0:
            problems[path].append(f"{overflow} px too wide")
    assert not {path: found for path, found in problems.items() if found}


def test_everything_works_without_scripts(driver: Any, address: str) -> None:  # noqa: F811
    resize(driver, 1280)
    driver.get(f"{address}/language/en?after=/people")
    draft(driver, address)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(f"{address}{ADDRESS}?step=who")
        size = find(driver, "#f-limits_size")
        size.clear()
        size.send_keys("9")
        find(driver, f"button[formaction='{ADDRESS}/count']").click()
        until(lambda: "could be reached" in driver.page_source or "first time" in driver.page_source)
        assert find(driver, "#f-limits_size").get_attribute("value") == "9"
        driver.get(f"{address}/experiments/new")
        find(driver, "#name").send_keys("without scripts")
        driver.find_element("css selector", "#personal-1 option[value=no]").click()
        find(driver, "main form button").click()
        until(lambda: "Yes, start it" in driver.page_source)
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
