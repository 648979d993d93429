"""The pictures of README, from the demonstration:  recllm start --demo -w demo && python eval/pictures.py demo

Home of the console, and the recommendations for one customer with their reasons, into recllm/guide/pictures. Needs the
extras serve and dev, Chromium and its driver.
"""

from __future__ import annotations

import io
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from inputs import HERE, script_parser
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from recllm.base.service_settings import ServiceSettings
from recllm.doors.console.app import mount_console
from recllm.doors.service.app import create_app
from recllm.doors.service.live import LiveShop
from recllm.shop.workspace.workspace import Workspace

PICTURES = HERE.parent / "recllm" / "guide" / "pictures"
WIDTH, HEIGHT, SCALE = 1100, 760, 1.5


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--customer", default="1333", help="a household of the log")
    args = parser.parse_args()
    shop = LiveShop(Workspace.open(args.workspace), "shop")
    app = create_app([shop], ServiceSettings())
    mount_console(app)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not (server.started and shop.ready):
        time.sleep(0.2)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    PICTURES.mkdir(exist_ok=True)
    driver = browser()
    try:
        driver.get(address)
        WebDriverWait(driver, 300).until(lambda d: "Draft it" in d.find_element("css selector", "main").text)
        save(driver.get_screenshot_as_png(), "console")
        driver.get(f"{address}/people")
        driver.find_element("css selector", "#user_id").send_keys(args.customer)
        driver.find_element("css selector", "main form button").click()
        WebDriverWait(driver, 300).until(lambda d: "/people/u1_" in d.current_url)
        driver.set_window_size(WIDTH, 2 * HEIGHT)
        save(driver.find_element("css selector", "#recommendations .cols").screenshot_as_png, "reasons")
    finally:
        driver.quit()
        server.should_exit = True


def browser() -> Any:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--force-device-scale-factor={SCALE}"):
        options.add_argument(argument)
    options.binary_location = str(shutil.which("chromium") or shutil.which("google-chrome"))
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    driver.set_window_size(WIDTH, HEIGHT)
    return driver


def save(picture: bytes, name: str) -> None:
    Image.open(io.BytesIO(picture)).convert("RGB").save(PICTURES / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
