"""Make docs/report.png: a part of the report of a run, as a browser shows it.

    python main.py --run runs/mnist
    python scripts/report_picture.py runs/mnist docs/report.png

It needs Chromium, and `pip install pillow`.  The comparison of modes, docs/modes.png, is what
`python main.py benchmark modes --plot docs/modes.png` draws.
"""
import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1100, 4000      # of the window, in pixels: all of the part is in it
COLOURS = 128
HIDDEN = """<style>
.grid { margin-bottom: 1rem; }
header, nav, h2, #training + .grid, #data + .grid, #recipe + .grid, #errors + .grid .panel:nth-child(2),
#errors + .grid .panel:nth-child(n + 4), #network + .grid .panel:nth-child(3), #network + .grid .panel:nth-child(4),
#network + .grid .panel:nth-child(n + 6) {
  display: none;
}
</style>"""


def screenshot(page, file):
    """Write the page as Chromium shows it, without what HIDDEN names, to a PNG file."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part.html")
        part.write_text(page.read_text("utf-8").replace("</head>", f"{HIDDEN}</head>"), "utf-8")
        browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                        f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={file}", part.as_uri()], check=True,
                       capture_output=True, timeout=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder that main.py --run made")
    parser.add_argument("picture", help="PNG file to write")
    args = parser.parse_args()
    from PIL import Image, ImageChops

    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        screenshot(Path(args.run, "report.html"), shot)
        image = Image.open(shot).convert("RGB")
    ground = Image.new("RGB", image.size, image.getpixel((0, 0)))
    _, _, _, bottom = ImageChops.difference(image, ground).getbbox()
    image.crop((0, 0, WIDTH, min(HEIGHT, bottom + 16))).quantize(COLOURS).save(args.picture, optimize=True)
    print(f"{args.picture}: {Path(args.picture).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
