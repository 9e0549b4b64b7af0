"""The page in a real Chromium: nothing sticks out on a phone, figures renew themselves, the QR code can be scanned."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.box import Served, Street, served

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PHONE, DESK = (360, 800), (1280, 900)
RENEWED_MS = 15_000


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Street(tmp_path_factory.mktemp("street"))) as running:
        yield running


@pytest.fixture(scope="module")
def browser(box: Served) -> Iterator[Browser]:
    """After the box: the client keeps this thread's event loop busy, and a box is enrolled in one of its own."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, box: Served) -> Iterator["Visit"]:
    visits = Visit(browser, box)
    yield visits
    visits.end()


class Visit:
    """Opens pages, and holds against them every complaint of the browser and every request to elsewhere."""

    def __init__(self, browser: Browser, box: Served) -> None:
        self._browser = browser
        self._box = box
        self._complaints: list[str] = []
        self._contexts: list = []  # type: ignore[type-arg]

    def __call__(self, size: tuple[int, int], scheme: str = "light", locale: str = "en-IN", path: str = "/") -> Page:
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if scheme == "dark" else "light",
            locale=locale,
            device_scale_factor=2,
        )
        self._contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self._complaints.append(message.text))
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.on("request", lambda request: self._look(request.url))
        page.goto(self._box.url + path)
        return page

    def _look(self, url: str) -> None:
        if not url.startswith(self._box.url):
            self._complaints.append(f"asked for {url}")

    def end(self) -> None:
        for context in self._contexts:
            context.close()
        assert self._complaints == []


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("locale", "heading"), [("en-IN", "Ready to answer"), ("hi-IN", "जवाब देने को तैयार")])
def test_it_can_be_read(
    visit: Visit, tmp_path: Path, size: tuple[int, int], scheme: str, locale: str, heading: str
) -> None:
    page = visit(size, scheme, locale)
    expect(page.locator("h1")).to_have_text(heading)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size[0], "the page is wider than the screen"
    small = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => e.childElementCount === 0 && e.textContent.trim()"
        " && parseFloat(getComputedStyle(e).fontSize) < 12.5).map(e => e.textContent)"
    )
    assert small == [], "text too small to read"
    shot = page.screenshot(path=tmp_path / f"{scheme}-{locale}.png", full_page=True)
    ground = Image.open(io.BytesIO(shot)).convert("L").getpixel((4, 300))
    assert isinstance(ground, int)
    assert (ground < 60) == (scheme == "dark")


def test_a_payment_app_can_scan_the_code(visit: Visit) -> None:
    page = visit(PHONE)
    code = page.locator(".topup img")
    code.scroll_into_view_if_needed()
    found = zxingcpp.read_barcodes(Image.open(io.BytesIO(code.screenshot())))
    assert [each.text for each in found] == [page.locator(".topup .button").get_attribute("href")]


def test_the_language_can_be_switched(visit: Visit) -> None:
    page = visit(PHONE)
    page.get_by_role("link", name="हिन्दी").click()
    expect(page.locator("html")).to_have_attribute("lang", "hi")
    page.get_by_role("link", name="English").click()
    expect(page.locator("h1")).to_have_text("Ready to answer")


def test_figures_renew_themselves(visit: Visit, box: Served) -> None:
    page = visit(DESK)
    calls = page.locator("[data-live=calls]")
    before = int(calls.text_content() or "")
    for _ in range(2):
        answer = httpx.post(
            f"{box.url}/v1/embeddings",
            json={"model": "fake-embed", "input": "नमस्ते"},
            headers={"Authorization": f"Bearer {box.key}"},
            timeout=30,
        )
        assert answer.status_code == 200
    expect(calls).to_have_text(str(before + 2), timeout=RENEWED_MS)


def test_the_curl_example_can_be_copied(visit: Visit) -> None:
    page = visit(DESK)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    figure = page.locator("figure", has_text="curl").first
    figure.get_by_role("button").click()
    expect(figure.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == figure.locator("code").text_content()
