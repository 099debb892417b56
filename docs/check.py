"""Opens every page of the built documentation in Chromium, as files, at two widths and
in both colour schemes.

python docs/check.py site

It fails if a page logs an error, fails to load anything, asks another machine for
something, scrolls sideways, or shows an equation or a picture that is empty; if the
colours do not follow the system; and if the search does not find names and questions.
"""

import pathlib
import shutil
import sys
from collections.abc import Iterator

from playwright.sync_api import Page, sync_playwright, TimeoutError


WIDTHS = 360, 1280
SCHEMES = {"light": "default", "dark": "slate"}
SEARCHES = {
    "not a valid JAX type": "faq.html",
    "learning_rate": "",
    "OneCycle": "schedules.html",
    "freeze": "",
}
OPTIONS = """--no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync""".split()
EMPTY = """[...document.querySelectorAll("math, article img")]
    .filter(x => x.getClientRects().length)
    .filter(x => x.localName == "img" ? !x.naturalWidth
        : !x.getBoundingClientRect().width || x.querySelector("merror"))
    .map(x => x.outerHTML.slice(0, 200))"""
FOLLOWS = "name => document.body.getAttribute('data-md-color-scheme') == name"
WIDE = """document.documentElement.scrollWidth - document.documentElement.clientWidth"""
WIDEST = """[...document.querySelectorAll("article *")]
    .filter(x => x.getBoundingClientRect().right > innerWidth + 1)
    .map(x => x.outerHTML.slice(0, 120)).slice(0, 3)"""


def problems(page: Page, url: str) -> Iterator[str]:
    page.set_viewport_size({"width": WIDTHS[-1], "height": 900})
    page.goto(url)
    # Pictures further down are loaded when they come into view.
    page.evaluate("document.querySelectorAll('img').forEach(x => x.loading = 'eager')")
    page.wait_for_load_state("networkidle")
    for empty in page.evaluate(EMPTY):
        yield f"empty: {empty}"
    for scheme, name in SCHEMES.items():
        page.emulate_media(color_scheme=scheme)
        try:
            page.wait_for_function(FOLLOWS, arg=name, timeout=2_000)
        except TimeoutError:
            yield f"the page does not follow the system to {scheme} colours"
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            if (excess := page.evaluate(WIDE)) > 0:
                yield f"{excess} pixels too wide at {width}: {page.evaluate(WIDEST)}"


def searched(page: Page, start: str) -> Iterator[str]:
    for words, where in SEARCHES.items():
        page.goto(start)
        page.fill("input[data-md-component=search-query]", words)
        result = page.locator(".md-search-result__link").first
        result.wait_for(state="attached", timeout=20_000)
        found = [
            x.get_attribute("href") or ""
            for x in page.locator(".md-search-result__link").all()
        ]
        if not any(where in x for x in found):
            yield f"the search for {words!r} finds {found[:5]}"


def main(folder: str) -> int:
    root = pathlib.Path(folder).resolve()
    pages = sorted(x for x in root.rglob("*.html") if x.name != "404.html")
    found: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=OPTIONS
        )
        page = browser.new_page()
        page.on("pageerror", lambda error: found.append(f"{page.url}: {error}"))
        page.on(
            "console",
            lambda x: x.type == "error" and found.append(f"{page.url}: {x.text}"),
        )
        page.on("requestfailed", lambda x: found.append(f"{page.url}: no {x.url}"))
        page.on(
            "request",
            lambda x: (
                x.url.startswith(("file:", "data:", "blob:", "about:"))
                or found.append(f"{page.url} asks for {x.url}")
            ),
        )
        for path in pages:
            url = path.as_uri()
            found += [f"{path.relative_to(root)}: {x}" for x in problems(page, url)]
        found += searched(page, (root / "index.html").as_uri())
        browser.close()
    print(f"{len(pages)} pages", *found, sep="\n")
    return len(found)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1]), 1))
