"""The pages in a real browser: nothing is asked for, nothing fails, everything is drawn, on a phone and in the dark."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kdpipe.pipeline.report import ReportConfig, report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

DRAWN = """() => [...document.querySelectorAll('figure svg[role]')].map(svg => {
    const marks = [...svg.querySelectorAll('path, circle, rect')].filter(mark => {
        const box = mark.getBBox();
        return box.width + box.height > 0;
    });
    const box = svg.getBoundingClientRect();
    return {name: svg.getAttribute('aria-label'), width: box.width, height: box.height, marks: marks.length};
})"""
# text of a plot that lies outside of it or over other text
CROWDED = """() => [...document.querySelectorAll('figure svg[role]')].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map(node => [node.textContent, node.getBoundingClientRect()]);
    const meet = (one, two) => one.left < two.right - 1 && two.left < one.right - 1
        && one.top < two.bottom - 1 && two.top < one.bottom - 1;
    const outside = ([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
        || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    return texts.flatMap((text, place) => [
        ...outside(text) ? [`${text[0]} is outside`] : [],
        ...texts.slice(place + 1).filter(other => meet(text[1], other[1])).map(other => `${text[0]} meets ${other[0]}`),
    ]);
})"""
# text that is less than 4.5 times as light or dark as what is behind it (WCAG 2, contrast ratio)
FAINT = """() => {
    const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0]).map(Number);
    const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = node => {
        for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const node of document.querySelectorAll('h1, h2, h3, p, li, a, th, td, dt, dd, summary, text')) {
        const style = getComputedStyle(node);
        const [one, two] = [light(parse(node.tagName === 'text' ? style.fill : style.color)), light(behind(node))];
        const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        if (ratio < 4.5) faint.push(`${node.tagName} ${ratio.toFixed(1)} ${node.textContent.slice(0, 40)}`);
    }
    return faint;
}"""


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Any], make_run: Callable[..., Path],
    make_sweep: Callable[..., Path], teacher_says: Callable[..., Any],
) -> dict[str, Path]:  # fmt: skip
    """One page of each kind, with everything on it that can be, in which names are markup."""
    root = tmp_path_factory.mktemp("pages")
    logits, labels = teacher_says(60, 9)
    names = [f"{number} {HOSTILE}" for number in range(9)]
    make_store(root / "a.kd", logits, labels, names=names, note=HOSTILE)
    make_store(root / "b.kd", logits[:, ::-1].copy(), labels, names=names)
    make_run(root / "run", names=names, gain=0.1)
    make_run(root / "base", names=names)
    make_sweep(root / "sweep", loss=HOSTILE, state="failed")
    wanted: dict[str, dict[str, Any]] = {
        "store": {"path": root / "a.kd", "against": root / "b.kd"},
        "run": {"path": root / "run", "baseline": root / "base", "store": root / "a.kd"},
        "sweep": {"path": root / "sweep"},
    }
    for name, options in wanted.items():
        report(ReportConfig(out=root / f"{name}.html", **options))
    return {name: root / f"{name}.html" for name in wanted}


@pytest.fixture(params=["store", "run", "sweep"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def look(browser: Any, pages: dict[str, Path], kind: str) -> Iterator[Callable[..., Any]]:
    """``look(viewport, scheme)`` opens the page; everything that it asks for is blocked, and nothing may go wrong."""
    contexts, troubles, asked = [], [], []

    def open_page(viewport: dict[str, int], scheme: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        address = pages[kind].as_uri()
        page.on("request", lambda request: asked.append(request.url) if request.url != address else None)
        context.route("**/*", lambda route: route.continue_() if route.request.url == address else route.abort())
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []
    assert asked == []


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_every_plot_is_drawn(look: Callable[..., Any], viewport: dict[str, int]) -> None:
    plots = look(viewport).evaluate(DRAWN)
    assert len(plots) > 2
    for plot in plots:
        assert plot["width"] > 250, plot
        assert plot["height"] > 120, plot
        assert plot["marks"] > 2, plot


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_no_text_of_a_plot_is_cut_off_or_covers_another(look: Callable[..., Any], viewport: dict[str, int]) -> None:
    assert look(viewport).evaluate(CROWDED) == []


def test_a_phone_has_nothing_to_scroll_sideways(look: Callable[..., Any]) -> None:
    page = look(PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_nothing_is_cut_off_in_print(look: Callable[..., Any]) -> None:
    page = look({"width": 780, "height": 1100})
    page.emulate_media(media="print")
    hidden = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollHeight > box.clientHeight).length"
    assert page.evaluate(hidden) == 0
    assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).overflow") == "visible"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(look: Callable[..., Any], scheme: str) -> None:
    page = look(DESK, scheme)
    assert page.evaluate(FAINT) == []
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red + green + blue > 600) == (scheme == "light")


def test_the_keyboard_reaches_everything(look: Callable[..., Any]) -> None:
    page = look(DESK)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0  # it is seen when it is reached
    reached = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
        if page.evaluate("document.activeElement === document.body"):
            break
    assert {"A", "SUMMARY"} <= reached
    summary = page.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.locator("table").is_visible()


@pytest.mark.parametrize("kind", ["sweep"])
def test_a_line_of_a_sweep_leads_to_its_trial(look: Callable[..., Any]) -> None:
    page = look(DESK)
    trial = page.locator("svg a[href='#trial-0']")
    trial.focus()
    page.keyboard.press("Enter")
    assert page.url.endswith("#trial-0")
    assert page.locator("tr#trial-0").is_visible()


def test_names_are_shown_as_they_are(look: Callable[..., Any]) -> None:
    assert HOSTILE in look(DESK).evaluate("document.body.textContent")
