"""The search page as a person sees it, in a real browser: results, keys, progress, both themes.

The picture of docs/engines.md is made by this test, on the miniature world and its made-up Swahili:

    PICTURE=docs/search.png python -m pytest tests/search/test_search_page.py -k theme
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from browser import Browser, chromium

from distill.search.page import PageServer, make_server

SWAHILI = "swaneerg swadrib"
DONE = "document.querySelector('main').getAttribute('aria-busy') == 'false' && {}"
HITS = "document.querySelectorAll('section').length == 2"
FOCUSED = "document.activeElement.textContent.trim().split(/\\s/)[0]"
IN_QUERY = "document.activeElement.name == 'q'"
HAS_PROGRESS = "getComputedStyle(document.querySelector('progress')).visibility == 'visible'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


class Gated:
    """The real searcher, which waits at each query until the gate is open."""

    def __init__(self, searcher):
        self._searcher, self.documents = searcher, searcher.documents
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, *asked):
        assert self.gate.wait(60)
        return self._searcher.answer(*asked)


@pytest.fixture(scope="module")
def gated(searcher) -> Gated:
    return Gated(searcher)


@pytest.fixture(scope="module")
def server(gated) -> Iterator[PageServer]:
    server = make_server(gated, ["sw"], "127.0.0.1", 0, queue_size=1)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    gated.gate.set()
    server.shutdown()
    server.server_close()
    thread.join()


def address(server: PageServer, query: str) -> str:
    fields = urllib.parse.urlencode({"q": query, "language": "sw"})
    return f"http://127.0.0.1:{server.server_port}/?{fields}"


@pytest.mark.slow
def test_the_browser_shows_both_systems_side_by_side(browser, server):
    browser.open(address(server, SWAHILI))
    browser.wait_for(DONE.format(HITS))
    page = browser.value("document.documentElement.outerHTML")
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["student sw", "teacher, zero-shot"]
    assert '<option value="sw">Swahili</option>' in page
    first = page.split("<h2>student sw</h2>")[1].split("</p>")[0]
    assert "d12" in first
    assert re.findall(r"<mark[^>]*>(.*?)</mark>", first) == ["green", "bird"]
    status = browser.value("document.querySelector('[aria-live=polite]').textContent")
    assert re.fullmatch(r"5 documents in \d+\.\d\d s", status)


@pytest.mark.slow
def test_all_of_it_by_keyboard(browser, server):
    browser.open(address(server, ""))
    browser.wait_for(f"form.language.length && {IN_QUERY}")
    browser.press(*SWAHILI, "Enter")
    browser.wait_for(DONE.format(HITS))
    names = browser.value("[...document.querySelectorAll('summary strong')].map(e => e.innerText)")
    student, teacher = names[:5], names[5:]
    keys = {
        "ArrowDown ArrowDown": student[1],
        "ArrowRight": teacher[1],
        "ArrowDown ArrowDown ArrowDown ArrowDown ArrowDown": teacher[4],
        "ArrowLeft ArrowLeft": student[4],
        "ArrowUp ArrowUp ArrowUp ArrowUp": student[0],
    }
    for pressed, name in keys.items():
        browser.press(*pressed.split())
        assert browser.value(FOCUSED) == name, pressed
    # The focus can be seen, and Enter shows in words what the colours mean.
    outline = browser.value("getComputedStyle(document.activeElement).outlineWidth")
    assert int(outline.removesuffix("px")) >= 2
    browser.press("Enter")
    opened = "[...document.querySelectorAll('details[open] li')].map(e => e.innerText)"
    assert browser.value(opened) == ["swaneerg → green 1.00", "swadrib → bird 1.00"]
    browser.press("ArrowUp")
    assert browser.value(IN_QUERY)
    browser.press("/")  # In the query it is a character.
    assert browser.value("form.q.value") == f"{SWAHILI}/"
    for key in ("/", "Escape"):
        browser.press("ArrowDown")
        assert browser.value(FOCUSED) == student[0]
        browser.press(key)
        assert browser.value(IN_QUERY)


@pytest.mark.slow
def test_what_runs_is_shown_and_what_fails_is_said(browser, server, gated):
    gated.gate.clear()
    browser.open(address(server, SWAHILI))
    browser.wait_for(f"document.readyState == 'complete' && {HAS_PROGRESS}")
    assert browser.value("status_.textContent").startswith("Searching …")
    # The queue's one place is taken: another page is told so, and goes on once there is room.
    fields = json.dumps(urllib.parse.urlencode({"q": "red"}))
    browser.value(f"fetch('/search?' + {fields}).then(one => window.refused = one.status); null")
    browser.wait_for("window.refused == 503")
    browser.value("form.q.value = 'swader'; search(); null")
    browser.wait_for("status_.className == 'error'")
    assert browser.value("status_.textContent") == "1 queries wait already: try again in 1 s"
    assert not browser.value(HAS_PROGRESS)
    gated.gate.set()
    wait_until_free(server)
    browser.value("search(); null")
    browser.wait_for(DONE.format(f"{HITS} && !({HAS_PROGRESS}) && status_.className == ''"))


def wait_until_free(server: PageServer) -> None:
    """Return once the queue has taken in a query and done with it."""
    for _ in range(600):
        future = server.queries.put("red", "", 1, is_wanted=lambda: False)
        if future is not None:
            future.result(60)
            return
        time.sleep(0.1)
    raise AssertionError("never free")


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def colours(theme: str) -> dict[str, tuple[float, ...]]:
    """The page's variables in a theme."""
    page = resources.files("distill.search").joinpath("page.html").read_text("utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", page, flags=re.S)
    found = {}
    for name, value in re.findall(r"--(\w+): ([^;]+);", light if theme == "light" else dark):
        if value.startswith("#"):
            digits = value[1:] if len(value) == 7 else "".join(2 * c for c in value[1:])
            numbers = [int(digits[n : n + 2], 16) for n in (0, 2, 4)]
        else:
            numbers = [int(number) for number in value.split(",")]
        found[name] = tuple(number / 255 for number in numbers)
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_enough_in_both_themes(theme):
    """WCAG 2.2 AA: 4.5 for text, 3 for borders and the focus's outline."""
    found = colours(theme)
    assert set(found) == {"paper", "ink", "faint", "line", "accent", "warn", "mark"}
    for name in ("ink", "faint", "warn"):
        assert contrast(found[name], found["paper"]) >= 4.5, name
    for name in ("line", "accent"):
        assert contrast(found[name], found["paper"]) >= 3, name
    for share in (0.25, 0.5, 0.75, 1.0):
        mixed = zip(found["mark"], found["paper"], strict=True)
        behind = tuple(share * mark + (1 - share) * paper for mark, paper in mixed)
        assert contrast(found["ink"], behind) >= 4.5, share


@pytest.mark.slow
def test_the_browser_takes_the_systems_theme(browser, server):
    for theme in ("light", "dark"):
        browser.open(address(server, SWAHILI), theme)
        browser.wait_for(DONE.format(HITS))
        seen = browser.value(
            "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
        )
        wanted = [colours(theme)[name] for name in ("paper", "ink")]
        numbers = [tuple(int(n) / 255 for n in re.findall(r"\d+", text)) for text in seen]
        assert numbers == wanted
        picture = browser.picture()
        assert picture.startswith(b"\x89PNG")
        if theme == "light" and "PICTURE" in os.environ:
            Path(os.environ["PICTURE"]).write_bytes(picture)
