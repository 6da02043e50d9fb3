"""The page in a real Chromium: at every width, light and dark, on paper, and for screen readers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from wine_drift.outbox import families
from wine_drift.portrait import Live
from wine_drift.publishing import serve
from wine_drift.settings import Settings

Cli = Callable[..., Any]
WIDTHS = (360, 800, 1400)
KINDS = ("empty", "drifted")


@pytest.fixture(scope="session")
def files(drifted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages as files, by what there is on them."""
    from click.testing import CliRunner

    from wine_drift.cli import main

    folder = tmp_path_factory.mktemp("pages")
    homes = {"empty": folder / "none", "drifted": drifted_home}
    for kind, home in homes.items():
        words = ["report", "--home", str(home), "--out", str(folder / f"{kind}.html")]
        assert CliRunner().invoke(main, words).exit_code == 0
    return {kind: folder / f"{kind}.html" for kind in homes}


class Looked:
    """A page that was opened, what it asked for, and what the browser complained of."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.answer = self.page.goto(address, wait_until="networkidle")


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Looked]]:
    """Open a page: `look(address, width=360, scheme="dark")`."""
    looked: list[Looked] = []

    def open_page(address: str, *, width: int = 800, scheme: str = "light") -> Looked:
        looked.append(Looked(browser, address, width, scheme))
        return looked[-1]

    yield open_page
    for each in looked:
        each.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_at_every_width(
    look: Callable[..., Looked], files: dict[str, Path], kind: str, width: int, scheme: str
) -> None:
    """Nothing overflows, nothing is asked for, nobody complains, and axe-core finds no fault."""
    looked = look(files[kind].as_uri(), width=width, scheme=scheme)
    page = looked.page
    assert looked.asked == [files[kind].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert beyond == []
    if kind == "drifted":
        drawn = "svg => svg.getBoundingClientRect().width"
        seen = [w for w in page.locator("svg").evaluate_all(f"all => all.map({drawn})") if w]
        assert len(seen) >= 5 and min(seen) > 250
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []
    assert looked.complaints == []


def test_dark_is_dark(look: Callable[..., Looked], files: dict[str, Path]) -> None:
    """The ground and the drawings follow the colours that the reader prefers."""
    seen = {}
    for scheme in ("light", "dark"):
        page = look(files["drifted"].as_uri(), scheme=scheme).page
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        line = page.evaluate("getComputedStyle(document.querySelector('.wide svg text')).fill")
        seen[scheme] = [sum(map(int, re.findall(r"\d+", each)[:3])) for each in (ground, line)]
    assert seen["light"][0] > 700 > 100 > seen["dark"][0]
    assert seen["light"][1] < seen["dark"][1]


def test_on_paper(look: Callable[..., Looked], files: dict[str, Path]) -> None:
    """It is some pages of text and drawings, none of them blank, and the map keeps its colours."""
    page = look(files["drifted"].as_uri(), scheme="dark").page
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type ?/Page\b", pdf)) <= 12
    page.emulate_media(media="print")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert (
        sum(map(int, re.findall(r"\d+", ink)[:3])) < 150
    )  # dark, whatever is preferred on screens
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    for top in range(0, picture.height - 500, 500):
        part = picture.crop((0, top, picture.width, top + 500))
        assert len(part.getcolors(1 << 24) or []) > 20, top
    assert page.evaluate(
        "getComputedStyle(document.querySelector('.map i.s4')).backgroundColor"
    ) != page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_by_keyboard(look: Callable[..., Looked], files: dict[str, Path]) -> None:
    """Tables that are wider than a small screen can be reached, and scrolled."""
    page = look(files["drifted"].as_uri(), width=360).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "scroll"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_served(look: Callable[..., Looked], drifted_home: Path) -> None:
    """The headers keep nothing back that the page needs, and nothing else is asked for."""
    settings = Settings(home=drifted_home)
    from wine_drift.ledger import Ledger

    def read() -> list[Any]:
        with Ledger.open(drifted_home, read_only=True) as ledger:
            return families(settings, ledger)

    with serve(read, host="127.0.0.1", port=0, page=Live(settings)) as address:
        looked = look(f"http://{address}/")
        assert looked.answer.status == 200
        assert {*looked.asked} <= {f"http://{address}/", f"http://{address}/favicon.ico"}
        assert looked.page.evaluate("getComputedStyle(document.querySelector('h2')).display")
        assert looked.page.locator(".verdict h2").inner_text().endswith("Act")
        assert (
            looked.page.evaluate(
                "getComputedStyle(document.querySelector('.verdict')).borderLeftWidth"
            )
            == "8px"
        )
