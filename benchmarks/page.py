"""Seconds from choosing a photo of 12 megapixels in the page of `upernet serve` to its overlay, in headless Chromium.

    python -m benchmarks.page [--threads 2] [--repeats 7] [--json OUT]

The photo is an example photo, enlarged to 4000 x 3000 pixels. The first one after the start of the server is left out,
as in `benchmarks.cold_start`.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import which

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.side_by_side import command_line, save

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE, QUICK_SIZE = (4000, 3000), (400, 300)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def seconds_to_overlay(page: Page, photo: Path) -> tuple[float, float]:
    """Choose a photo; return the seconds until its legend is there, and those of the network by the server."""
    before = page.locator("#strip button").count()
    page.evaluate("""() => {
        window.chosen = new Promise((done) => document.getElementById("files").addEventListener("change", () => {
            const start = performance.now();
            const panel = document.getElementById("panel");
            new MutationObserver((_, observer) => {
                if (panel.inert || !document.querySelector("#legend button")) return;
                observer.disconnect();
                requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
            }).observe(document.body, { subtree: true, childList: true, attributes: true });
        }, { once: true, capture: true }));
    }""")
    page.locator("#files").set_input_files(photo)
    seconds = page.evaluate("() => window.chosen")
    assert page.locator("#strip button").count() == before + 1
    told = re.search(r"label maps ([\d.]+) s", page.locator("#caption").inner_text())
    assert told is not None, page.locator("#status").inner_text()
    return seconds, float(told[1])


def main() -> None:
    arguments = command_line(__doc__)
    size = QUICK_SIZE if arguments.quick else SIZE
    with tempfile.TemporaryDirectory() as temporary:
        photo = Path(temporary) / "photo.jpg"
        Image.open(EXAMPLES / "street.jpg").resize(size, Image.Resampling.BICUBIC).save(photo, quality=92)
        command = [sys.executable, "-m", "upernet", "serve", "--port", "0", "--no-browser", "--log", "json"]
        command += ["--threads", str(arguments.threads)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
            assert server.stderr is not None
            address = re.search(r'"url": "([^"]+)"', server.stderr.readline())
            assert address is not None
            browser = driver.chromium.launch(executable_path=which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1360, "height": 860})
            page.goto(address[1])
            page.locator("#examples button").first.wait_for()
            runs = [seconds_to_overlay(page, photo) for _ in range(arguments.repeats + 1)][1:]
            browser.close()
            server.terminate()
    shown = {
        "photo": list(size),
        "seconds": [round(seconds, 3) for seconds, _ in runs],
        "median_seconds": round(statistics.median(seconds for seconds, _ in runs), 3),
        "median_network_seconds": round(statistics.median(network for _, network in runs), 3),
    }
    print(
        f"{size[0]} x {size[1]} pixels: overlay after {shown['median_seconds']:.2f} s "
        f"({min(shown['seconds']):.2f} to {max(shown['seconds']):.2f}), of which network and label maps "
        f"{shown['median_network_seconds']:.2f} s"
    )
    save(arguments, **shown)


if __name__ == "__main__":
    main()
