"""The report in a browser: Chromium opens the file, a timeline is expanded, filters and keys are used, nothing fails.

Screenshots stay in build/report/.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from report_cases import HOSTILE, named, one_too_long, page

import kvsim
from kvsim import Batch
from kvsim.commands import _format
from kvsim.commands.demo import example
from kvsim.report.page import render

SHOTS = Path(__file__).parents[1] / "build" / "report"


class Opened:
    """A page in the browser, with whatever it complained of or asked the network for."""

    def __init__(self, browser, path, address="", **context):
        self.complaints = []
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **context)
        self.tab = self.context.new_page()
        self.tab.add_init_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        self.tab.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.tab.on("request", lambda asked: self._asked(asked.url))
        self.path = path
        self.uri = path.resolve().as_uri()
        self.tab.goto(self.uri + address)
        self.tab.wait_for_selector("html[data-ready=yes]")

    def _asked(self, url):
        if not url.startswith((self.uri, "data:", "blob:")):
            self.complaints.append(url)

    def draw(self, id):
        """Brings a plot into view and waits until it is drawn."""
        self.tab.locator(f"#{id}").scroll_into_view_if_needed()
        self.tab.wait_for_selector(f"#{id}[data-drawn=yes]")

    def texts(self, selector):
        return self.tab.locator(selector).all_inner_texts()

    def ids(self):
        return self.texts("#trajectories tbody td:first-child")

    def shot(self, name, selector=None):
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = str(SHOTS / f"{name}.png")
        if selector:
            self.tab.locator(selector).screenshot(path=path)
        else:
            self.tab.screenshot(path=path)

    def copied(self, selector):
        """The cells that a button puts on the clipboard: a dict a row, by heading."""
        self.tab.locator(selector).click()
        head, *rows = (line.split("\t") for line in self.tab.evaluate("window.copied").split("\n"))
        return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """Opens a page once by name; closed, and its complaints looked at, after the module."""
    made, tabs = {}, []

    def opens(name, page_of, address="", **context):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("report") / f"{name}.html"
            made[name].write_bytes(render(page_of()).encode("utf-8", "replace"))
        tabs.append(Opened(browser, made[name], address, **context))
        return tabs[-1]

    yield opens
    for tab in tabs:
        assert tab.complaints == []
        tab.context.close()


def estimate():
    return page(example(), load="kv=ttl:1", cliff=True)


def simulation():
    engine = kvsim.EngineConfig(num_gpu_blocks_override=2_500)
    return page(example(), arrivals="closed:3", engine=engine, cliff=True)


def many():
    """60 trajectories, each with two tools of five."""
    batch = named([f"task {number:02d}" for number in range(60)], ["search", "run", "rare", "read", "write"])
    return page(batch)


PLOTS = ("histogram", "scatter", "timeline-plot", "cliff-plot", "what-if-plot")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("made", [estimate, simulation])
def test_it_opens_draws_everything_and_complains_of_nothing(opened, made, scheme):
    tab = opened(made.__name__, made, color_scheme=scheme)
    for plot in (*PLOTS, "survival-plot" if made is estimate else "engine-plot"):
        tab.draw(plot)
    tab.tab.evaluate("scrollTo(0, 0)")
    tab.shot(f"{made.__name__}-{scheme}")
    for section in tab.tab.locator("main > section").evaluate_all("all => all.map((one) => one.id)"):
        tab.shot(f"{made.__name__}-{scheme}-{section}", f"#{section}")
    assert tab.complaints == []


def test_the_first_screen_shows_the_results_totals(opened):
    result = estimate().result
    tab = opened("estimate", estimate)
    tiles = dict(zip(tab.texts(".tile .label"), tab.texts(".tile .value"), strict=True))
    assert tiles["Time in the model"] == _format.duration(result.model_s.sum())
    assert tiles["US dollars"] == _format.money(result.usd.sum())
    assert tiles["Recompute after eviction"] == _format.duration(result.recompute_s.sum())


def test_a_timeline_is_opened_with_the_keyboard_and_its_numbers_are_copied(opened):
    made = simulation()
    tab = opened("simulation", simulation)
    keys = tab.tab.keyboard
    tab.tab.locator("#trajectories tbody tr").first.focus()
    keys.press("ArrowDown")
    second = tab.ids()[1]
    keys.press("Enter")
    assert tab.texts("#shown-trajectory") == [second]
    assert f"trajectory={second}" in tab.tab.url
    tab.draw("timeline-plot")

    at = list(made.result.batch.ids).index(second)
    its = made.result.batch.trajectory == at
    rows = tab.copied("#timeline button:has-text('Copy table')")
    for heading, column in (("in all (s)", "e2e_s"), ("queue (s)", "queue_s"), ("recompute (s)", "recompute_s")):
        shown = [float(row[heading]) for row in rows]
        np.testing.assert_allclose(shown, made.result.turns[column][its], rtol=0, atol=5e-10)
    assert [int(row["cached tokens"]) for row in rows] == made.result.turns.cached_tokens[its].tolist()

    tab.tab.locator("#timeline tbody tr").nth(3).focus()
    keys.press("Enter")
    assert "turn=3" in tab.tab.url
    assert tab.tab.locator("#timeline tbody tr[aria-selected=true] td").first.inner_text() == "3"
    tab.shot("timeline-zoomed", "#timeline")
    tab.tab.locator("button[data-view=turns]").click()
    tab.tab.wait_for_timeout(300)
    tab.shot("timeline-turn-by-turn", "#timeline")
    assert "view=turns" in tab.tab.url


def test_a_what_if_is_read_and_opens_its_turn(opened):
    advice = estimate().advice
    tab = opened("estimate", estimate)
    best = advice.top(10)
    rows = tab.copied("#what-if button:has-text('Copy table') >> nth=0")
    assert [row["change"] for row in rows] == [saving.name for saving in best]
    np.testing.assert_allclose(
        [float(row["saves (s)"]) for row in rows], [saving.saved_s for saving in best], rtol=1e-5
    )
    call = next(at for at, saving in enumerate(best) if saving.turn is not None)
    shown = tab.tab.locator("#what-if-table tbody tr").nth(call)
    assert _format.duration(best[call].saved_s) in shown.inner_text()
    shown.focus()
    tab.tab.keyboard.press("Enter")
    assert tab.texts("#shown-trajectory") == [best[call].trajectory]
    assert tab.tab.locator("#timeline tbody tr[aria-selected=true] td").first.inner_text() == str(best[call].turn)
    tab.tab.locator("#kind").select_option("*")
    assert f"{len(advice.agent):,} changes" in tab.tab.locator("#what-if .note").first.inner_text()
    served = [saving.name for saving in advice.serving]
    assert [row["change"] for row in tab.copied("#what-if button:has-text('Copy table') >> nth=1")] == served


def test_tools_are_told_and_their_calls_open(opened):
    made = estimate()
    tab = opened("estimate", estimate)
    tools = made.attribution.tools
    rows = {row["tool"]: row for row in tab.copied("#tools button:has-text('Copy table') >> nth=0")}
    for at, name in enumerate(made.result.batch.tool_names):
        if tools.calls[at]:
            assert float(rows[name]["fresh prefill (s)"]) == pytest.approx(tools.fresh_ns[at] / 1e9)
            assert float(rows[name]["read while decoding (s)"]) == pytest.approx(tools.decode_context_ns[at] / 1e9)
    dearest = tab.copied("#tools button:has-text('Copy table') >> nth=1")[0]
    tab.tab.locator("#calls-table tbody tr").first.focus()
    tab.tab.keyboard.press("Enter")
    assert tab.texts("#shown-trajectory") == [dearest["trajectory"]]
    assert tab.tab.locator("#timeline tbody tr[aria-selected=true] td").first.inner_text() == dearest["turn"]


AREA = """async () => {
    const facts = JSON.parse(await unzippedText("facts-data"));
    const run = readRun(facts, unpackColumns(await unzipped("columns-data"), facts.columns));
    return run.trajectories.map((one) => heldCurve(run, one).reduce(
        ([area, at, bytes], [time, now]) => [area + ((time - at) * (bytes + now)) / 2e9, time, now], [0, 0, 0])[0]);
}"""


def test_the_area_under_the_kv_curve_is_the_kv_held(opened):
    for made, tolerance in ((estimate, 1e-9), (simulation, 0.03)):
        area = opened(made.__name__, made).tab.evaluate(AREA)
        np.testing.assert_allclose(area, made().result.kv_byte_s, rtol=tolerance)


def test_hovering_over_a_bar_tells_its_numbers(opened):
    tab = opened("estimate", estimate, "#view=turns")
    tab.draw("timeline-plot")
    x, y = tab.tab.evaluate(
        """() => {
        byId("timeline-plot").scrollIntoView({ block: "center" });
        const bars = [...document.querySelectorAll("#timeline-plot .barlayer path")];
        const areas = bars.map((bar) => bar.getBoundingClientRect());
        const largest = areas.sort((a, b) => b.width * b.height - a.width * a.height)[0];
        return [largest.x + largest.width / 2, largest.y + largest.height / 2];
    }"""
    )
    for before in (3, 0):  # a move, not a jump
        tab.tab.mouse.move(x - before, y)
    hover = tab.tab.locator("#timeline-plot .hoverlayer .hovertext")
    hover.wait_for()
    assert "tokens" in hover.text_content()


def test_filters_are_in_the_address_and_the_back_button_undoes_them(opened):
    tab = opened("many", many)
    assert tab.texts("#found") == ["60 trajectories"]
    batch = many().result.batch
    users = set(batch.trajectory[batch.tool == 2].tolist())
    tab.tab.locator("#tool").select_option("rare")
    assert tab.texts("#found") == [f"{len(users)} of 60 trajectories"]
    tab.tab.locator("#filter").fill("task 1")
    left = [f"task {number}" for number in range(10, 20) if number in users]
    assert 0 < len(left) < 10
    assert tab.texts("#found") == [f"{len(left)} of 60 trajectories"]
    assert sorted(tab.ids()) == left
    tab.shot("filtered", "#trajectories")
    address = tab.tab.url
    assert "filter=task+1" in address
    assert "tool=rare" in address
    tab.tab.go_back()
    tab.tab.wait_for_function("!location.hash.includes('tool')")
    assert tab.texts("#found") == ["60 trajectories"]
    assert tab.tab.locator("#tool").input_value() == ""

    linked = opened("many", many, address[address.index("#") :])
    assert linked.texts("#found") == [f"{len(left)} of 60 trajectories"]
    assert linked.tab.locator("#filter").input_value() == "task 1"
    linked.tab.locator("#clear").click()
    assert linked.texts("#found") == ["60 trajectories"]


def test_costs_are_filtered_and_sorted(opened):
    result = many().result
    tab = opened("many", many, "#cost=model_s")
    middle = float(np.median(result.model_s))
    tab.tab.locator("#min").fill(str(middle))
    assert tab.texts("#found") == [f"{(result.model_s >= middle).sum()} of 60 trajectories"]
    tab.tab.locator("#trajectories th button", has_text="in model").click()
    rows = tab.copied("#trajectories button:has-text('Copy all')")
    order = np.argsort(-result.model_s)[: len(rows)]
    assert [row["trajectory"] for row in rows] == [result.batch.ids[at] for at in order]
    assert tab.tab.locator("#trajectories th[aria-sort=descending]").inner_text().startswith("in model")


def test_pages_are_turned_with_the_keyboard(opened):
    tab = opened("many", many, "#sort=id")
    assert len(tab.ids()) == 25
    tab.tab.locator("#trajectories tbody tr").first.focus()
    tab.tab.keyboard.press("PageDown")
    assert tab.ids()[0] == "task 25"
    tab.tab.keyboard.press("End")
    focused = "document.activeElement.querySelector('td')?.textContent"
    assert tab.tab.evaluate(focused) == "task 49"
    tab.tab.keyboard.press("/")
    assert tab.tab.evaluate("document.activeElement.id") == "filter"


def test_tab_reaches_the_skip_link_first_and_shows_where_it_is(opened):
    tab = opened("many", many)
    tab.tab.keyboard.press("Tab")
    assert tab.tab.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert tab.tab.evaluate("getComputedStyle(document.activeElement).outlineWidth") != "0px"
    tab.tab.keyboard.press("Enter")
    assert tab.tab.evaluate("document.activeElement.id") == "main"


def test_hostile_names_are_shown_as_they_are(opened):
    def hostile():
        return page(named(HOSTILE, HOSTILE))

    tab = opened("hostile", hostile, "#sort=id")
    names = [name or "(no name)" for name in HOSTILE]
    shown = "all => all.map((one) => one.textContent)"
    assert sorted(tab.tab.locator("#trajectories tbody bdi").evaluate_all(shown)) == sorted(names)
    for at in range(len(HOSTILE)):
        tab.tab.locator("#trajectories tbody tr").nth(at).click()
        opened_one = tab.tab.locator("#shown-trajectory bdi").evaluate_all(shown)
        assert opened_one == [tab.tab.locator("#trajectories tbody bdi").nth(at).text_content()]
    for plot in ("histogram", "scatter", "timeline-plot"):
        tab.draw(plot)
    tab.shot("hostile", "#trajectories")
    assert tab.tab.evaluate("document.querySelectorAll('img').length") == 0
    assert tab.complaints == []


def test_what_is_not_priced_says_so(opened):
    def unpriced():
        return page(one_too_long())

    tab = opened("unpriced", unpriced, "#trajectory=long")
    assert "beyond the longest context" in tab.tab.locator("#timeline .body").inner_text()
    assert tab.tab.locator("#status").locator("option").all_inner_texts()[-1] == "beyond the longest context"
    priced, not_priced = tab.copied("#timeline button:has-text('Copy table')")
    assert float(priced["in all (s)"]) > 0
    assert [not_priced[name] for name in ("in all (s)", "USD", "KV GiB·s", "cached tokens")] == [""] * 4


def test_an_empty_batch_has_a_page(opened):
    def empty():
        return page(Batch.from_trajectories([]))

    tab = opened("empty", empty)
    assert tab.texts("#found") == ["0 trajectories"]


def test_it_fits_a_narrow_window_and_paper(opened):
    tab = opened("estimate", estimate)
    tab.tab.set_viewport_size({"width": 390, "height": 800})
    tab.draw("timeline-plot")
    tab.tab.wait_for_timeout(300)
    assert tab.tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.tab.evaluate("scrollTo(0, 0)")
    tab.shot("narrow")
    tab.tab.set_viewport_size({"width": 1280, "height": 900})
    for plot in PLOTS:
        tab.tab.wait_for_selector(f"#{plot}[data-drawn=yes]")
    tab.tab.pdf(path=SHOTS / "print.pdf", format="A4", print_background=True)


def test_the_theme_can_be_chosen(opened):
    tab = opened("estimate", estimate, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = tab.tab.evaluate(background)
    for _ in ("light", "dark"):
        tab.tab.locator("#theme").click()
    assert tab.texts("#theme") == ["Dark"]
    assert tab.tab.evaluate(background) != light


NUMBERS = [0, 1e-7, 3.2e-5, 0.0123, 0.5, 0.9994, 1.26, 42.04, 99.9, 120.4, 599.4, 1692.3, 52740.1, 273600.7, 9e6]


def test_numbers_read_as_in_the_terminal(opened):
    tab = opened("estimate", estimate)
    for name in ("duration", "plain", "money", "percent"):
        shown = tab.tab.evaluate(f"numbers => numbers.map({name})", NUMBERS)
        assert shown == [getattr(_format, name)(number) for number in NUMBERS], name
    assert tab.tab.evaluate("[1234567890, 5, 2e9, 0].map(exactSeconds)") == ["1.23456789", "0.000000005", "2", "0"]


def test_a_thousand_trajectories_are_no_burden(opened, tmp_path):
    count, turns = 1_000, 50
    rows = np.arange(count * turns)
    random = np.random.default_rng(0)
    new, output = random.integers(100, 1_500, len(rows)), random.integers(30, 400, len(rows))
    through = np.cumsum((new + output).reshape(count, turns), axis=1).ravel()
    batch = Batch.from_columns(
        parent=np.where(rows % turns, rows - 1, -1),
        kept_tokens=np.where(rows % turns, through - output - new, 0),
        prompt_tokens=through - output,
        output_tokens=output,
        pause_ns=np.where(rows % turns, random.integers(10**8, 10**10, len(rows)), 0),
        arrival_ns=np.zeros(len(rows), np.int64),
        trajectory=rows // turns,
        tool=rows % 7,
        tool_names=[f"tool {number}" for number in range(7)],
    )
    begun_s = time.process_time()  # what others do on this machine does not count
    tab = opened("thousand", lambda: page(batch, load="kv=ttl:3", cliff=True))
    assert time.process_time() - begun_s < 10
    assert tab.tab.evaluate("performance.getEntriesByType('paint')[0].startTime") < 2_000
    size = tab.path.stat().st_size
    assert size < 8_000_000
    assert tab.texts("#found") == ["1,000 trajectories"]
    took_ms = tab.tab.evaluate(
        "() => { const begun = performance.now(); goTo({ filter: '99' }, { replace: true });"
        " return performance.now() - begun; }"
    )
    assert tab.texts("#found")[0].startswith("19 of")
    assert took_ms < 500
    (SHOTS / "thousand.json").write_text(json.dumps({"bytes": size, "filter_ms": took_ms}))
