"""Make docs/draw.png: a digit drawn on the page of `main.py draw`, and what the layers of a trained network make of it.

    python main.py --save mnist.npz
    python scripts/draw_picture.py mnist.npz docs/draw.png

It needs Chromium with its chromedriver, and `pip install selenium pillow`.
"""
import argparse
import os
import shutil
import sys
import tempfile
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cnn_numba.commands.main import main as command

# A seven, as (x, y) from 0 to 1
STROKES = [[(0.29, 0.26), (0.42, 0.24), (0.7, 0.25), (0.66, 0.36), (0.59, 0.48), (0.53, 0.62), (0.48, 0.8)],
           [(0.43, 0.53), (0.54, 0.52), (0.66, 0.51)]]
WIDTH, HEIGHT = 1080, 1700      # of the window, in pixels: all of the page is in it


def picture(page):
    """The page after a digit was drawn on it, as the bytes of a PNG."""
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains

    options = webdriver.ChromeOptions()
    for flag in "--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}":
        options.add_argument(flag)
    options.binary_location, driver = (shutil.which(name) or name for name in ("chromium", "chromedriver"))
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        browser.get(page.as_uri())
        canvas = browser.find_element("id", "canvas")
        for stroke in STROKES:
            actions = ActionChains(browser, duration=20)
            for k, (x, y) in enumerate(stroke):
                across, down = (x - 0.5) * canvas.size["width"], (y - 0.5) * canvas.size["height"]
                actions.move_to_element_with_offset(canvas, round(across), round(down))
                if k == 0:
                    actions.click_and_hold()
            actions.release().perform()
        browser.execute_async_script("""
            const [done] = arguments, wait = () => state === "idle" ? done() : setTimeout(wait, 5);
            wait();""")
        return browser.find_element("tag name", "body").screenshot_as_png


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model that main.py --save wrote")
    parser.add_argument("picture", help="PNG file to write")
    args = parser.parse_args()
    import PIL.Image

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        if code := command(["draw", "--load", args.model, "--export", str(page)]):
            return code
        image = PIL.Image.open(BytesIO(picture(page))).convert("RGB")
    image.quantize(256).save(args.picture, optimize=True)
    print(f"Wrote {args.picture}, {image.width} x {image.height}, {os.path.getsize(args.picture) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
