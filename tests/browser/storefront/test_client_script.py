"""`/client.js` in Chromium, under a strict content security policy."""

import gzip
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import BrowserContext, Route

from engine.journal.records import EventRecord, ExposureRecord
from engine.service.previews.tokens import sign_preview
from engine.settings import Settings
from tests.browser.storefront.conftest import await_records

SCRIPT = Path(__file__).resolve().parents[3] / "engine/storefront"
HERO = """
<main><section class="hero" data-placement="home_hero">
<h1 data-field="headline">Good morning</h1><img data-field="image" data-base="/page/" alt="">
</section><p id="below">below</p></main>
"""
CSS = """
.hero { height: 300px } .tall { height: 3000px } img { width: 40px; height: 40px }
"""
# Hidden until there is an answer, and shown after 0.2 s in any case.
GUARDED = f"""{CSS}
[data-placement]:not([data-state]) {{ visibility: hidden; animation: reveal 0s 0.2s forwards }}
@keyframes reveal {{ to {{ visibility: visible }} }}
"""
PATIENT = {"timeout": 20_000}
"""A client that waits for a busy test machine."""


def test_the_script_is_small_and_its_types_name_all_of_it(open_tab: Any, server: Any) -> None:
    source = (SCRIPT / "client.js").read_bytes()
    assert len(gzip.compress(source)) < 6000
    types = (SCRIPT / "client.d.ts").read_text()
    found = open_tab().run(
        "const names = (one) => Object.getOwnPropertyNames(one.prototype).filter((n) => n !== 'constructor');"
        "return {all: Object.keys(cp), client: names(cp.Counterpoint), decision: names(cp.Decision)}"
    )
    assert set(found["all"]) == set(re.findall(r"^export (?:class|function) (\w+)", types, flags=re.MULTILINE))
    declared = set(re.findall(r"^  (?:readonly )?(\w+)(?:<[^(]*>)?[(:?]", types, flags=re.MULTILINE))
    assert {*found["client"], *found["decision"]} <= declared
    for name in ("client.js", "client.d.ts"):
        answer = httpx.get(f"{server.base}/{name}")
        assert answer.headers["access-control-allow-origin"] == "*"
        again = httpx.get(f"{server.base}/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_an_offer_is_drawn_before_the_next_frame_and_moves_nothing(open_tab: Any) -> None:
    tab = open_tab(HERO, GUARDED, PATIENT)
    found = tab.run("""
        window.shifts = 0;
        new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shifts += one.value })
          .observe({type: 'layout-shift', buffered: true});
        document.getAnimations().forEach((one) => one.pause());
        const hero = document.querySelector('.hero');
        const before = getComputedStyle(hero).visibility;
        const frame = new Promise((resolve) => {
          const json = Response.prototype.json;
          Response.prototype.json = async function () {
            const answer = await json.call(this);
            requestAnimationFrame(() => resolve([hero.dataset.state, hero.querySelector('h1').textContent,
              getComputedStyle(hero).visibility, answer.offers.home_hero.rendering.headline]));
            return answer;
          };
        });
        const decision = await shop.show({});
        await new Promise((resolve) => setTimeout(resolve, 300));
        return {before, frame: await frame, shifts: window.shifts, top: document.querySelector('#below').offsetTop,
          image: document.querySelector('img').getAttribute('src')};
    """)
    state, shown, visibility, headline = found["frame"]
    assert (state, visibility, shown) == ("offer", "visible", headline)
    assert found["shifts"] == 0
    assert found["image"].startswith("/page/")
    assert tab.printed == []


def test_a_page_shows_the_preview_of_its_address_and_an_old_one_not(open_tab: Any, server: Any) -> None:
    tab = open_tab(HERO, CSS)
    reasons = []
    for seconds in (60, -60):
        token = sign_preview(Settings(data=server.data), {"home_hero": "tasting_set"}, time.time() + seconds)
        script = """
            history.replaceState(null, '', `/page?counterpoint_preview=${argument}`);
            const shown = cp.connect({timeout: 20000});
            const decision = await shown.show({});
            shown.expose(decision, {placements: ['home_hero']});
            await shown.flush();
            return decision.offers.home_hero.reason;
        """
        reasons.append(tab.run(script, token))
    assert reasons[0] == "preview"
    assert reasons[1] != "preview"
    assert "the token expired on" in " ".join(tab.printed)
    [seen] = await_records(server, lambda one: isinstance(one, ExposureRecord))
    assert "home_hero" in seen.keys  # of the second page alone


@pytest.mark.parametrize("failure", ["silence", "refusal", "nonsense"])
def test_without_an_answer_the_page_shows_its_own_in_time(open_tab: Any, failure: str) -> None:
    tab = open_tab(HERO, GUARDED, {}, clock=True)

    def fail(route: Route) -> None:
        if failure == "refusal":
            route.abort("connectionrefused")
        elif failure == "nonsense":
            route.fulfill(status=502, body="<html>bad gateway")

    tab.page.route("**/v1/decide", fail)
    tab.stop_clock()
    tab.run("window.done = null; shop.show({}).then((decision) => { window.done = decision })")
    if failure == "silence":
        tab.page.clock.run_for(179)
        assert tab.run("return window.done") is None
        tab.page.clock.run_for(1)
    tab.run("while (!window.done) await fetch('/healthz')")
    assert tab.run("return [window.done.degraded, window.done.variant('checkout_layout', 'control')]") == [
        True,
        "control",
    ]
    assert tab.page.locator(".hero").get_attribute("data-state") == "fallback"
    assert tab.page.locator("h1").text_content() == "Good morning"
    assert tab.page.locator(".hero").is_visible()


def test_an_answer_that_comes_after_the_fallback_was_shown_replaces_nothing(open_tab: Any) -> None:
    tab = open_tab(HERO, ".hero { visibility: hidden } .revealed { visibility: visible }", PATIENT)
    tab.run("""
        const shown = shop.show({});
        document.querySelector('.hero').classList.add('revealed');  // as the style does after a while
        await shown;
    """)
    assert tab.page.locator(".hero").get_attribute("data-state") == "fallback"
    assert tab.page.locator("h1").text_content() == "Good morning"


def test_seen_is_what_was_half_in_view_for_a_second(open_tab: Any, server: Any) -> None:
    tab = open_tab(f"<div class='tall'></div>{HERO}<div class='tall'></div>", CSS, PATIENT, clock=True)
    decision = tab.run("const decision = await shop.show({}); return decision.decision_id")
    tab.stop_clock()

    def scroll(pixels: int) -> None:
        """So many pixels of the hero are in view."""
        top = tab.page.locator(".hero").evaluate("(one) => one.getBoundingClientRect().top + scrollY")
        tab.page.evaluate("(y) => scrollTo(0, y)", top - 800 + pixels)
        tab.page.clock.run_for(100)  # frames are drawn by the stopped clock
        tab.page.screenshot()  # and the observer looks after a frame

    scroll(140)
    tab.page.clock.run_for(5000)
    scroll(200)
    tab.page.clock.run_for(500)
    scroll(100)  # not long enough, and the second begins again
    tab.page.clock.run_for(3000)
    scroll(200)
    tab.page.evaluate(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    tab.page.clock.run_for(5000)
    tab.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    tab.page.clock.run_for(999)
    tab.page.clock.run_for(0)
    assert tab.bodies("/v1/exposures") == []
    tab.page.clock.run_for(1)
    tab.page.clock.run_for(1000)  # until the queue is sent
    [record] = await_records(server, lambda one: isinstance(one, ExposureRecord) and one.decision_id == decision)
    assert sorted(record.keys) == ["hero_policy", "home_hero"]
    scroll(0)
    scroll(250)
    tab.page.clock.run_for(5000)
    assert len(tab.bodies("/v1/exposures")) == 1


def test_what_is_hidden_is_not_seen(open_tab: Any) -> None:
    tab = open_tab(HERO, CSS, PATIENT, clock=True)
    tab.run("await shop.show({}); document.querySelector('main').style.visibility = 'hidden'")
    tab.page.screenshot()  # after a frame the observer has looked
    tab.page.clock.run_for(5000)
    assert tab.bodies("/v1/exposures") == []
    tab.run("document.querySelector('main').style.visibility = ''")
    tab.page.clock.run_for(3000)
    tab.run("await shop.flush()")
    assert len(tab.bodies("/v1/exposures")) == 1


def test_an_element_shows_the_part_of_its_variant(open_tab: Any, server: Any) -> None:
    body = """<form data-experiment="checkout_layout"><p data-when="control">three steps</p>
      <p data-when="one_page" hidden>one page</p></form>"""
    tab = open_tab(body, CSS, PATIENT | {"userId": "qa-1"})
    decision = tab.run("return (await shop.show({})).decision_id")
    assert tab.page.locator("form").get_attribute("data-variant") == "one_page"
    assert tab.page.get_by_text("one page").is_visible()
    assert not tab.page.get_by_text("three steps").is_visible()
    [seen] = await_records(server, lambda one: isinstance(one, ExposureRecord) and one.decision_id == decision)
    assert seen.keys == ["checkout_layout"]


def events(server: Any, ids: dict[str, str], count: int) -> list[str]:
    records = await_records(
        server, lambda one: isinstance(one, EventRecord) and ids["anonymous_id"] in one.message_id + one.customer, count
    )
    return [one.event for one in records]


def test_nothing_is_lost_when_the_page_goes_or_the_tab_closes(open_tab: Any, server: Any) -> None:
    tab = open_tab(f"<a href='/page?next'>next</a>{HERO}", CSS, PATIENT)
    ids = tab.run("await shop.show({}); return shop.ids")
    tab.run("document.querySelector('.hero').addEventListener('click', () => location.assign('/page?bought'))")
    tab.page.locator("h1").click()
    tab.page.wait_for_url("**/page?bought")
    assert events(server, ids, 1) == ["click"]
    tab.run("const two = cp.connect(); for (const category of ['tea', 'cake']) two.track('view', {category})")
    tab.page.close()
    assert events(server, ids, 3).count("view") == 2


def test_what_was_seen_is_reported_though_the_tab_closes_first(open_tab: Any, server: Any) -> None:
    tab = open_tab(HERO, CSS, PATIENT)
    decision = tab.run("""
        const decision = await shop.decide({placements: ['home_hero']});
        shop.expose(decision, {placements: ['home_hero']});
        return decision.decision_id;
    """)
    tab.page.close()
    found = await_records(server, lambda one: isinstance(one, ExposureRecord) and one.decision_id == decision)
    assert "home_hero" in {key for one in found for key in one.keys}


def test_what_could_not_be_sent_is_sent_by_the_next_page_and_counts_once(
    open_tab: Any, server: Any, context: BrowserContext
) -> None:
    context.route("**/v1/events", lambda route: route.abort("connectionreset"))
    tab = open_tab(HERO, CSS, PATIENT)
    ids = tab.run(
        "for (const c of ['tea', 'cake', 'cups']) shop.track('view', {category: c}); await shop.flush();return shop.ids"
    )
    tab.page.close(run_before_unload=True)
    context.unroute("**/v1/events")
    again = open_tab(HERO, CSS, PATIENT)
    assert again.run("return shop.ids") == ids
    assert events(server, ids, 3) == ["view"] * 3
    assert again.run("await shop.flush(); return Object.keys(localStorage)") == ["counterpoint.id"]
    third = open_tab(HERO, CSS, PATIENT)
    third.run("await shop.flush()")
    assert third.bodies("/v1/events") == []


def test_a_visitor_keeps_variant_and_deeds_when_they_log_in(open_tab: Any, server: Any) -> None:
    for number in range(4):
        tab = open_tab("", "", PATIENT)
        user = f"login-{number}-{time.time_ns()}"
        ask = "(await shop.decide({experiments: ['checkout_layout']}))"
        before, after = tab.run(
            f"const one = {ask}; shop.expose(one, {{experiments: ['checkout_layout']}});"
            "shop.track('view', {category: 'tea'}); await shop.flush();"
            f"shop.login(argument, {{first_name: 'Ada'}}); await shop.flush();"
            f"return [one, {ask}].map((d) => d.variant('checkout_layout', ''))",
            user,
        )
        assert before == after != ""
        profile = server.get(f"/v1/profiles/{user}").json()
        assert profile["traits"]["first_name"]["value"] == "Ada"
        assert "tea" in str(profile)
        anonymous = tab.run("const before = shop.ids; shop.logout(); return [before, shop.ids]")
        assert anonymous[0]["user_id"] == user
        assert "user_id" not in anonymous[1]
        assert anonymous[0]["anonymous_id"] != anonymous[1]["anonymous_id"]
        tab.page.evaluate("localStorage.clear()")


def test_without_consent_nothing_is_stored_or_reported(open_tab: Any, server: Any) -> None:
    tab = open_tab(HERO, CSS, PATIENT | {"consent": False}, clock=True)
    assert tab.run("return (await shop.show({})).degraded") is False
    tab.run("shop.track('view', {category: 'tea'}); await shop.flush()")
    tab.page.clock.run_for(5000)
    assert {path.rpartition("/")[2] for path, _ in tab.requested} == {"decide"}
    assert tab.run("return localStorage.length") == 0
    ids = tab.run("await shop.consent(true, ['marketing']); return shop.ids")
    assert sorted(events(server, ids, 2)) == ["consent_given", "view"]
    assert tab.run("return localStorage.getItem('counterpoint.id')") == ids["anonymous_id"]
    assert server.get(f"/v1/profiles/{ids['anonymous_id']}").json()["consents"]["marketing"]
    tab.run("await shop.consent(false, ['marketing'])")
    assert "consent_withdrawn" in events(server, ids, 3)
    assert tab.run("return [localStorage.length, shop.ids.anonymous_id === argument]", ids["anonymous_id"]) == [
        0,
        False,
    ]


def test_a_rendering_cannot_run_code(open_tab: Any) -> None:
    body = """<div data-placement="home_hero"><p data-field="headline">ours</p><img data-field="image" alt="">
      <a data-field="link" href="/ours">more</a><a id="second" data-field="other" href="/ours">more</a></div>"""
    tab = open_tab(body, CSS, PATIENT)
    hostile = {
        "headline": "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>",
        "image": "javascript:window.hacked=1",
        "link": "javascript:window.hacked=1",
        "other": "https://example.org/x",
    }
    offer = {"offer": "x", "rendering": hostile, "reason": "policy"}
    answer = {"decision_id": "d", "experiments": {}, "offers": {"home_hero": offer}}
    tab.page.route("**/v1/decide", lambda route: route.fulfill(json=answer))
    tab.page.route("**/v1/exposures", lambda route: route.fulfill(json={}))
    tab.run("await shop.show({})")
    assert tab.page.locator("p").text_content() == hostile["headline"]
    assert tab.page.locator("a").first.get_attribute("href") == "/ours"
    assert tab.page.locator("#second").get_attribute("href") == "https://example.org/x"
    assert tab.page.locator("img").get_attribute("src") is None
    assert tab.run("return window.hacked ?? null") is None


def test_a_flag_has_its_value_or_that_of_the_page(open_tab: Any) -> None:
    tab = open_tab("", "", PATIENT)
    found = tab.run("""
        const theme = await shop.flag('theme', {});
        return [await shop.flag('dark_mode', false), await shop.flag('page_size', 12), await shop.flag('greeting', ''),
          theme.colour, await shop.flag('page_size', 'text'), await shop.flag('missing', 7)];
    """)
    assert found == [True, 24, "Good morning", "brown", "text", 7]


def test_a_list_is_drawn_item_by_item_and_its_clicks_name_the_item(open_tab: Any) -> None:
    row = "".join(f"<p data-placement='row[{place}]'><b data-field='headline'>own</b></p>" for place in (1, 2, 3))
    tab = open_tab(row, "", PATIENT)
    found = tab.run("""
        const items = ["tea", "cake"].map((offer) => ({offer, rendering: {headline: offer}, reason: "policy"}));
        const decision = new cp.Decision({decision_id: "d-1", offers: {row: {items, reason: "policy"}}});
        const parts = [...document.querySelectorAll("p")];
        for (const part of parts) shop.draw(part, decision);
        const sent = [];
        shop.track = (event, properties) => sent.push(properties);
        shop.click(decision, "row[2]");
        return {texts: parts.map((part) => part.textContent), states: parts.map((part) => part.dataset.state), sent};
    """)
    assert found["texts"] == ["tea", "cake", "own"]
    assert found["states"] == ["offer", "offer", "fallback"]
    assert found["sent"] == [{"placement": "row[2]", "offer": "cake"}]
