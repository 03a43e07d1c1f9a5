"""A real browser for the tests of the page: headless Chromium, driven by Selenium."""
import shutil

import pytest


def chromium():
    """A started browser; the test is skipped, with a reason, where Selenium, Chromium or its driver is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is missing: pip install selenium")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("Chromium or its chromedriver is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage":
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def window(browser, width, height=900):
    """Give the page this size, in pixels; a narrow one is a phone's."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})


def stroke(browser, points, kind="mouse"):
    """Draw a line through points of the canvas, (x, y) from 0 to 1, with a mouse, pen or touch."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    canvas = browser.find_element("id", "canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    box = browser.execute_script("""
        const box = arguments[0].getBoundingClientRect();
        return [box.left, box.top, box.width, box.height];""", canvas)
    actions = ActionBuilder(browser, mouse=PointerInput(kind, kind), duration=1)
    for k, (x, y) in enumerate(points):
        actions.pointer_action.move_to_location(round(box[0] + x * box[2]), round(box[1] + y * box[3]))
        if k == 0:
            actions.pointer_action.pointer_down()
    actions.pointer_action.pointer_up()
    actions.perform()
