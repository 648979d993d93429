"""Campaigns and experiments in a real browser: for keyboard, screen reader and phone, smoother with scripts, the same
without. Needs what `test_console_browser` needs."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from test_console_browser import ROOM, address, all_faults, driver, errors, find, resize, text_of  # noqa: F401
from waiting import until

GOAL = "Tea for those who drink it"
ADDRESS = "/campaigns/campaign/tea-for-those-who-drink-it"
SENDER = {"name": "Leaf & Iron", "address": "1 Market Street", "opt_out": "https://example.com/stop"}


def press(driver: Any, selector: str) -> None:  # noqa: F811
    button = find(driver, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def type_into(driver: Any, selector: str, text: str) -> None:  # noqa: F811
    field = find(driver, selector)
    field.clear()
    field.send_keys(text)


def draft(driver: Any, address: str) -> None:  # noqa: F811
    """A campaign for teas and hostile titles, with its messages."""
    driver.get(f"{address}/campaigns")
    if driver.find_elements("css selector", f"a[href='{ADDRESS}']"):
        return
    driver.get(f"{address}/campaigns/new")
    type_into(driver, "#f-goal", GOAL)
    for name, text in SENDER.items():
        type_into(driver, f"#f-sender_{name}", text)
    press(driver, ".foot button.primary")
    until(lambda: f"{ADDRESS}/people" in driver.current_url)
    driver.get(f"{address}{ADDRESS}/products")
    driver.execute_script("document.querySelectorAll('main details').forEach(d => d.open = true)")
    type_into(driver, "#f-items", "tea-1\ntea-2\nbad-0\nbad-36\nbad-37")
    press(driver, "button[name=then]")
    until(lambda: "/messages" in driver.current_url)
    until(lambda: driver.find_elements("css selector", "[name=text_id], #job a.btn"))


def test_the_count_appears_while_one_types(driver: Any, address: str) -> None:  # noqa: F811
    resize(driver, 1280)
    draft(driver, address)
    driver.get(f"{address}{ADDRESS}/people")
    errors(driver)
    type_into(driver, "#f-limits_size", "7")
    until(lambda: "about\n7" in text_of(driver, "#count"))
    assert "could be reached" in text_of(driver, "#count") and not errors(driver)
    assert find(driver, "#f-limits_size").get_attribute("value") == "7"  # what is typed stays
    find(driver, "#f-limits_size").send_keys("x")
    until(lambda: "Type a whole number" in text_of(driver, "#count"))


def test_a_wording_is_checked_while_one_types(driver: Any, address: str) -> None:  # noqa: F811
    resize(driver, 1280)
    draft(driver, address)
    driver.get(f"{address}{ADDRESS}/messages")
    errors(driver)
    part = ".edit [name^='part:']"
    driver.execute_script("arguments[0].scrollIntoView()", find(driver, part))
    type_into(driver, part, "The best tea in the world for 0.01 EUR <img src=x onerror=alert(1)>")
    until(lambda: "Not saved yet" in text_of(driver, "#preview"))
    assert "onerror" in text_of(driver, "#preview") and driver.find_elements("css selector", "#preview mark")
    assert not errors(driver)


@pytest.mark.parametrize(("width", "language"), ROOM)
def test_pages_are_for_everybody(driver: Any, address: str, width: int, language: str) -> None:  # noqa: F811
    resize(driver, width, dark=language == "zh")
    driver.get(f"{address}/language/en?after=/people")
    draft(driver, address)
    driver.get(f"{address}/language/{language}?after=/people")
    problems = {}
    steps = (f"{ADDRESS}/{step}" for step in ("occasion", "people", "products", "messages", "review"))
    for path in ("/campaigns", "/campaigns/new", *steps, "/results", "/experiments"):
        driver.get(address + path)
        time.sleep(0.1)
        problems[path] = all_faults(driver)
    assert not {path: found for path, found in problems.items() if found}


def test_everything_works_without_scripts(driver: Any, address: str) -> None:  # noqa: F811
    resize(driver, 1280)
    driver.get(f"{address}/language/en?after=/people")
    draft(driver, address)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        driver.get(f"{address}{ADDRESS}/people")
        type_into(driver, "#f-limits_size", "9")
        find(driver, f"button[formaction='{ADDRESS}/count']").click()
        until(lambda: "could be reached" in driver.page_source or "first time" in driver.page_source)
        assert find(driver, "#f-limits_size").get_attribute("value") == "9"
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize(("width", "language"), ROOM)
def test_from_home_to_an_approved_campaign_for_the_next_day(
    driver: Any,  # noqa: F811
    address: str,  # noqa: F811
    width: int,
    language: str,
) -> None:
    """With the sender of an earlier campaign: six clicks and one typed field at most."""
    resize(driver, 1280)
    driver.get(f"{address}/language/en?after=/people")
    draft(driver, address)
    resize(driver, width)
    driver.get(f"{address}/language/{language}?after=/")
    row = "button[name=occasion][value=summer]"
    until(lambda: driver.find_elements("css selector", row))
    assert "20" in text_of(driver, f"li:has({row}) .tile") and not errors(driver)
    picture(driver, f"1-home-{language}-{width}")
    clicks = [row]
    press(driver, row)
    until(lambda: "/messages" in driver.current_url and driver.find_elements("css selector", "[name=text_id]"))
    picture(driver, f"2-messages-{language}-{width}")
    n_typed = 0
    if not find(driver, "#by").get_attribute("value"):
        type_into(driver, "#by", "Ann")
        n_typed = 1
    for selector in ("button[value=approve_ready]", ".foot a.btn.primary"):
        clicks.append(selector)
        press(driver, selector)
        until(lambda: driver.find_elements("css selector", "main"))
    until(lambda: "/review" in driver.current_url)
    picture(driver, f"3-review-{language}-{width}")
    assert len(clicks) <= 6 and n_typed <= 1 and not errors(driver)
    assert not driver.find_elements("css selector", "main li.opt:first-child .warn"), text_of(driver, "main")
    driver.get(driver.current_url.replace("/review", "/products"))
    assert driver.find_elements("css selector", "[name='target.items'][checked]")
    driver.get(driver.current_url.replace("/products", "/review"))
    assert "2025-06-11T09:00" in driver.page_source


def picture(driver: Any, name: str) -> None:  # noqa: F811
    """Of the page, where RECLLM_TEST_PICTURES names a folder: for people to look at."""
    if folder := os.environ.get("RECLLM_TEST_PICTURES"):
        driver.save_screenshot(f"{folder}/{name}.png")
