"""Tests of the page in a real browser: every interaction, accessibility, and what happens on bad input."""

import base64
import io
import json
import os
import re
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

import upernet
from upernet.serving import Limits, create_app
from upernet.serving.run import bind, url_of

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

EXAMPLES = Path(__file__).parents[2] / "examples"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1360, 860)}
TOKEN = "correct horse"

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def parser():
    return upernet.load("everyday")


def run_server(parser, **options):
    bound = bind("127.0.0.1", 0)
    app = create_app({"everyday": parser}, Limits(body=2**20, pixels=2_000_000), **options)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield url_of(bound)
    server.should_exit = True
    thread.join()
    bound.close()


@pytest.fixture(scope="module")
def address(parser):
    yield from run_server(parser)


@pytest.fixture(scope="module")
def guarded(parser):
    yield from run_server(parser, token=TOKEN)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        try:
            launched = started.chromium.launch(executable_path=BROWSER, args=FLAGS)
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}; run `playwright install chromium`")
        yield launched
        launched.close()


@pytest.fixture
def page(browser):
    """Yield a page that fails the test on errors in scripts, refusals by its policy, and requests to elsewhere."""
    context = browser.new_context(viewport={"width": 1360, "height": 860}, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    opened, problems = context.new_page(), []
    playwright.expect.set_options(timeout=60_000)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda told: problems.append(told.text) if "Content Security Policy" in told.text else None)
    opened.on(
        "request",
        lambda sent: None if re.match(r"(http://localhost:|blob:|data:)", sent.url) else problems.append(sent.url),
    )
    yield opened
    context.close()
    assert problems == []


def open_example(page, address, name="astronaut"):
    page.goto(address)
    page.get_by_role("button", name=name).click()
    done(page)


def done(page):
    """Wait for the parse of the current photo."""
    page.locator("#panel:not([inert]) #legend button").first.wait_for()


def center(page, x=0.5, y=0.5):
    box = page.locator("#canvas").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def pixels(page):
    """Return the canvas as an array, after it was drawn."""
    data = page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => "
        "done(document.getElementById('canvas').toDataURL()))))"
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB")).astype(int)


def slide(page, name, value):
    page.locator(name).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )


def saved(page, button):
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return download.value


def test_a_photo_is_parsed_and_all_levels_are_shown(page, address, parser):
    open_example(page, address)
    expected = parser(EXAMPLES / "astronaut.jpg")
    assert page.locator("#description").inner_text().splitlines()[::2] == expected.describe().splitlines()
    names = page.locator("#scene li span:first-child").all_inner_texts()
    assert expected.scene[0][0] in names
    for level in ("Object", "Part", "Material", "Texture"):
        page.get_by_role("radio", name=level).check()
        rows = page.locator("#legend button span:not(.share)").all_inner_texts()
        shares = expected[level.lower()].shares()
        assert len(rows) == len(shares)
        shown = {row for row in rows if row != "none of them"}
        assert shown == {name.replace("_", " ") for name in shares if name != expected[level.lower()].names[0]} or (
            not expected[level.lower()].background and shown == {name.replace("_", " ") for name in shares}
        )


def test_pointing_reads_all_levels_and_marks_the_legend(page, address):
    open_example(page, address)
    page.mouse.move(*center(page, y=0.3))
    assert re.match(r"person > .*, \d+ %", page.locator("#tip").inner_text())
    assert page.locator("#reading").inner_text() == page.locator("#tip").inner_text()
    levels = page.locator("#pixel th").all_inner_texts()
    assert levels == ["object", "part", "material", "texture"]
    assert page.locator("#legend button.hovered span:not(.share)").all_inner_texts() == ["person"]
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()
    plain = pixels(page)
    page.locator("#legend button").first.hover()
    assert (pixels(page) != plain).any(), "the edges of the class are drawn"


def test_a_click_isolates_a_region_and_the_legend_a_class(page, address):
    open_example(page, address)
    before = pixels(page)
    page.mouse.click(*center(page, y=0.3))
    assert page.locator("#region").inner_text().startswith("Region: person, ")
    assert pixels(page).mean() < before.mean(), "everything else is dark"
    page.keyboard.press("Escape")
    assert page.locator("#region").is_hidden()
    row = page.locator("#legend button", has_text="wall")
    row.click()
    assert row.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Show everything").click()
    assert row.get_attribute("aria-pressed") == "false"


def test_opacity_comparison_and_confidence(page, address):
    open_example(page, address)
    page.mouse.move(0, 0)
    slide(page, "#opacity", 0)
    photo = pixels(page)
    slide(page, "#opacity", 100)
    full = pixels(page)
    assert (full != photo).mean() > 0.2
    slide(page, "#split", 50)
    half = pixels(page)
    middle = half.shape[1] // 2
    assert (half[:, : middle - 4] == photo[:, : middle - 4]).all()
    assert (half[:, middle + 4 :] == full[:, middle + 4 :]).all()
    slide(page, "#split", 0)
    page.get_by_role("radio", name="Confidence").check()
    assert page.locator("#scale").is_visible()
    assert (pixels(page) != full).mean() > 0.2


def test_zoom_and_pan_with_wheel_buttons_and_mouse(page, address):
    open_example(page, address)
    fitted = pixels(page)
    page.mouse.move(*center(page))
    page.mouse.wheel(0, -600)
    zoomed = pixels(page)
    assert (zoomed != fitted).any()
    page.mouse.down()
    page.mouse.move(*center(page, 0.3, 0.3), steps=4)
    page.mouse.up()
    assert (pixels(page) != zoomed).any()
    assert page.locator("#region").is_hidden(), "a drag picks no region"
    page.get_by_role("button", name="Zoom out").click()
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Fit the photo").click()
    page.mouse.move(0, 0)
    assert (pixels(page) == fitted).all()


def test_everything_works_with_the_keyboard(page, address):
    open_example(page, address)
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowUp")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowUp")
    assert "person" in page.locator("#reading").inner_text()
    assert page.locator("#reading").get_attribute("aria-live") == "polite"
    page.keyboard.press("Enter")
    assert page.locator("#region").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    assert page.locator("#levels input:checked").get_attribute("value") == "part"
    page.keyboard.press("c")
    assert page.locator("#show input:checked").get_attribute("value") == "confidence"
    before = pixels(page)
    page.keyboard.press("+")
    assert (pixels(page) != before).any()
    page.keyboard.press("0")
    assert (pixels(page) == before).all()


def test_touch_taps_and_pinches(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    open_example(page, address)
    page.locator("#canvas").scroll_into_view_if_needed()
    page.touchscreen.tap(*center(page, y=0.3))
    assert "person" in page.locator("#reading").inner_text()
    assert page.locator("#region").is_visible()
    assert "zoom=" not in page.url
    session = context.new_cdp_session(page)
    x, y = center(page)
    for kind, spread in (("touchStart", 20), ("touchMove", 50), ("touchMove", 80)):
        points = [{"x": x - spread, "y": y, "id": 1}, {"x": x + spread, "y": y, "id": 2}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    playwright.expect(page).to_have_url(re.compile("zoom="))
    context.close()


def test_a_link_restores_the_view(page, address):
    open_example(page, address, "brick wall")
    page.get_by_role("radio", name="Material").check()
    slide(page, "#opacity", 85)
    slide(page, "#split", 25)
    page.locator("#legend button").first.click()
    page.locator("#canvas").focus()
    page.keyboard.press("+")
    shown, link = pixels(page), page.url
    page.goto("about:blank")
    page.goto(link)
    done(page)
    assert page.locator("#levels input:checked").get_attribute("value") == "material"
    assert page.locator("#opacity").input_value() == "85"
    assert page.locator("#legend button").first.get_attribute("aria-pressed") == "true"
    page.mouse.move(0, 0)
    assert page.url == link
    assert (pixels(page) == shown).mean() > 0.999


def test_nonsense_in_a_link_is_ignored(page, address):
    page.goto(f"{address}#photo=astronaut.jpg&level=feelings&opacity=9&split=x&zoom=-1&class=ghost&model=none&center=7")
    done(page)
    assert page.locator("#levels input:checked").get_attribute("value") == "object"
    assert page.locator("#opacity").input_value() == "60"


def test_files_are_saved_in_the_size_of_the_photo(page, address, parser):
    page.goto(address)
    page.locator("#files").set_input_files(EXAMPLES / "street.jpg")
    done(page)
    overlay = saved(page, "Overlay (PNG)")
    assert overlay.suggested_filename == "street_object.png"
    assert Image.open(overlay.path()).size == (1024, 576)
    archive = saved(page, "Label maps and sheet (zip)")
    expected = parser(EXAMPLES / "street.jpg")
    with zipfile.ZipFile(archive.path()) as opened:
        labels = np.asarray(Image.open(io.BytesIO(opened.read("object.png"))))
    assert (labels == np.where(expected.object.labels < 0, 255, expected.object.labels)).mean() > 0.999
    described = json.loads(Path(saved(page, "JSON").path()).read_text())
    assert described["width"] == 1024 and described["description"] == expected.describe()


def test_several_photos_are_in_a_strip(page, address):
    page.goto(address)
    page.locator("#files").set_input_files([EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg", EXAMPLES / "car.jpg"])
    playwright.expect(page.locator("#strip button")).to_have_count(3)
    playwright.expect(page.locator("#strip .state")).to_have_count(0)
    assert page.locator("#caption").inner_text().startswith("cat.jpg")
    page.locator("#strip button").nth(2).click()
    done(page)
    assert page.locator("#caption").inner_text().startswith("car.jpg")
    assert page.locator("#strip button").nth(2).get_attribute("aria-current") == "true"
    assert page.evaluate("document.activeElement.title") == "car.jpg"


def test_photos_are_dropped_and_pasted(page, address):
    page.goto(address)
    page.get_by_role("button", name="coffee").wait_for()
    send = """async ([address, kind]) => {
        const blob = await (await fetch(`${address}assets/examples/coffee.jpg`)).blob();
        const data = new DataTransfer();
        data.items.add(new File([blob], `${kind}.jpg`, { type: "image/jpeg" }));
        const event = kind === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
        document.body.dispatchEvent(event);
    }"""
    page.evaluate(send, [address, "drop"])
    done(page)
    page.evaluate(send, [address, "paste"])
    playwright.expect(page.locator("#strip button")).to_have_count(2)
    playwright.expect(page.locator("#strip .state")).to_have_count(0)
    assert page.locator("#caption").inner_text().startswith("paste.jpg")


def test_a_format_that_browsers_do_not_show_comes_from_the_server(page, address, tmp_path):
    Image.open(EXAMPLES / "cat.jpg").save(tmp_path / "cat.tiff")
    page.goto(address)
    page.locator("#files").set_input_files(tmp_path / "cat.tiff")
    done(page)
    assert pixels(page).std() > 20
    assert re.match("cat.tiff, 512 . 512 pixels", page.locator("#caption").inner_text())


def test_what_cannot_be_parsed_says_why(page, address, tmp_path):
    (tmp_path / "broken.jpg").write_bytes((EXAMPLES / "cat.jpg").read_bytes()[:2000])
    Image.new("RGB", (2000, 1500), "red").save(tmp_path / "large.png")
    (tmp_path / "notes.txt").write_text("no photo")
    page.goto(address)
    page.locator("#files").set_input_files(tmp_path / "broken.jpg")
    page.locator("#status.error").wait_for()
    assert re.search(r"damaged|truncated", page.locator("#status").inner_text())
    page.locator("#files").set_input_files(tmp_path / "large.png")
    playwright.expect(page.locator("#status")).to_contain_text("megapixels")
    page.locator("#files").set_input_files(tmp_path / "notes.txt")
    assert "not a photo" in page.locator("#status").inner_text()
    page.locator("#files").set_input_files(EXAMPLES / "cat.jpg")
    done(page)
    assert page.locator("#status").inner_text() == ""


def test_the_page_asks_for_the_token(page, guarded):
    page.goto(guarded)
    page.locator("#token").fill("wrong")
    page.locator("#token").press("Enter")
    playwright.expect(page.locator("#token-error")).to_contain_text("wrong")
    page.locator("#token").fill(TOKEN)
    page.locator("#token").press("Enter")
    page.get_by_role("button", name="cat").click()
    done(page)
    assert page.locator("#panel").is_visible()


def test_the_model_tells_its_terms_and_limits(page, address):
    open_example(page, address)
    told = page.locator("#about").inner_text()
    assert "research and non-commercial use only" in told and "expect mistakes" in told
    page.get_by_text("names of the level object").click()
    assert "ceiling" in page.locator("#about").inner_text()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(browser, address, size, scheme, tmp_path):
    """WCAG 2.2 AA by axe, no sideways scrolling, and targets that a finger hits (2.5.8), at three sizes."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.get_by_role("button", name="astronaut").wait_for()
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    problems = axe.Axe().run(page, options=rules).response["violations"]
    open_example(page, address)
    page.mouse.click(*center(page, y=0.3))
    problems += axe.Axe().run(page, options=rules).response["violations"]
    assert [(problem["id"], [node["html"] for node in problem["nodes"]]) for problem in problems] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if folder := os.environ.get("UPERNET_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"page-{size}-{scheme}.png", full_page=True)
    context.close()


def test_the_description_of_the_interface_works_offline(page, address):
    page.goto(f"{address}docs")
    page.get_by_text("/v1/parse", exact=False).first.wait_for()
