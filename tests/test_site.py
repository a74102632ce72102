"""Tests of docs/build_site.py and zensical.toml: the site is whole, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import build_site
import pytest

from upernet.checkpoints import list_zoo, shipped_checkpoint
from upernet.errors import UpernetError
from upernet.models import list_models

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = (ROOT / "zensical.toml").read_text(encoding="utf-8")  # tomllib is not in Python 3.10
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "srcset")}
"""Attributes whose address the browser loads by itself."""


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.anchors = {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "srcset") and value is not None:
                self.links.append((tag, name, value))
            if name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("zensical") is None or find_spec("mkdocstrings_handlers") is None:
        pytest.skip("Zensical is not installed")
    out = tmp_path_factory.mktemp("site") / "site"
    build_site.build(out)
    return out


@pytest.mark.slow
@pytest.mark.process
def test_links_of_the_site_lead_to_pages_and_anchors(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 40
    for path, page in pages.items():
        for tag, name, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("http", "https", "mailto", "data"), f"{path.name}: {link}"
                assert (tag, name) not in LOADED or parts.scheme == "data", f"{path.name} loads {link}"
                assert parts.scheme == "mailto" or re.fullmatch(r"\w[\w.-]*(:\d+)?", parts.netloc), link
                continue
            if path.name == "404.html":
                continue  # its links begin at the root of the server
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target.suffix == ".html":
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"


@pytest.mark.slow
@pytest.mark.process
def test_the_reference_has_the_public_names_and_the_commands(site: Path) -> None:
    import upernet

    documented = {anchor for page in (site / "reference").glob("*.html") for anchor in Page(page).anchors}
    assert {f"upernet.{name}" for name in upernet.__all__} <= documented
    assert {"upernet-parse", "upernet-doctor", "upernet-data-prepare-broden"} <= documented


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(BROWSER is None or find_spec("playwright") is None, reason="no browser, or no Playwright")
def test_the_search_works_from_the_disk_and_without_a_network(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "export.html").as_uri())
        page.keyboard.press("Control+k")
        page.locator(".md-search input, input[placeholder=Search]").first.fill("Winograd")
        page.get_by_text("What makes it fast").first.wait_for()
        browser.close()
    assert asked and all(address.startswith(("file:", "data:", "blob:", "about:")) for address in asked)


def test_every_page_has_one_place_in_the_navigation() -> None:
    listed = re.findall(r'"([\w./-]+\.md)"', CONFIG)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    made = {f"reference/{name}.md" for name in (*build_site.REFERENCE, "cli")}
    others = set(build_site.OTHER_PAGES) - {"examples/CREDITS.md"}
    assert sorted(listed) == sorted({*pages, *made, *others})


def test_every_model_with_weights_has_a_page() -> None:
    with_weights = {name for name in list_models() if shipped_checkpoint(name) or name in list_zoo()}
    pages = {path.stem for path in (DOCS / "models").glob("*.md")} - {"index"}
    assert pages == with_weights
    text = (DOCS / "models" / "upernet_internimage_xl_640_160k_ade20k.md").read_text(encoding="utf-8")
    for fact in ("mIoU 55.0 with one scale", "research and non-commercial use only", "367.7 M", "InternImage-XL"):
        assert fact in text


def test_all_public_names_are_in_one_page_of_the_reference() -> None:
    import upernet

    pages = [build_site.reference_lines(title, modules) for title, modules in build_site.REFERENCE.values()]
    names = [line.removeprefix("::: upernet.") for page in pages for line in page if line.startswith(":::")]
    assert sorted(names) == sorted(upernet.__all__)


def places(page: Path) -> dict[Path, str]:
    return {page: "models/one.md", DOCS / "library.md": "library.md"}


def test_links_to_files_of_the_repository_are_copied(tmp_path: Path) -> None:
    page = DOCS / "models" / "everyday.md"

    def moved(link: str) -> str:
        return build_site.moved(link, page, "models/everyday.md", places(page), tmp_path)

    assert moved("../library.md") == "../library.md"
    assert moved("../../LICENSE") == "../LICENSE.txt"
    assert (tmp_path / "LICENSE.txt").read_text() == (ROOT / "LICENSE").read_text()
    assert moved("https://example.org/a.md") == "https://example.org/a.md"
    with pytest.raises(UpernetError, match=r"everyday\.md: the link \.\./nothing\.md leads to no file"):
        moved("../nothing.md")


def anchors(page: Path) -> Iterator[str]:
    """Yield the anchors that forges make of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE):
        words = re.sub(r"\[(.+?)\]\(.*?\)", r"\1", heading).lower()
        yield re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def test_anchors_of_links_exist_on_the_forge() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    found = 0
    for page in pages:
        for link, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve() if link else page
            found += 1
            assert anchor in set(anchors(target)), f"{page.name}: {link}#{anchor}"
    assert found > 20
