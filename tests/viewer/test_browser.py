"""The page in a headless browser, as people use it: by mouse and by keyboard alone."""

import base64
import json
import re

import cv2
import numpy as np
import pytest

from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import SQUARE_CELLS

WIDE, NARROW = (1440, 900), (420, 860)


class Opened:
    """A page whose every complaint is remembered."""

    def __init__(self, browser, size):
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.asked = set()
        self.page.on("request", lambda request: self.asked.add("/".join(request.url.split("/")[:3])))

    def go(self, client, where=""):
        self.page.goto(client.server.address + where)
        return self.page

    def slide(self, client, run, slide, query=""):
        page = self.go(client, f"#/slide/{run}/{slide}{query}")
        page.wait_for_selector(".pane[data-scale]")
        return page


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def opened(request, browser):
    made = Opened(browser, request.param)
    yield made
    made.context.close()
    assert made.complaints == []


@pytest.fixture
def wide(browser):
    made = Opened(browser, WIDE)
    yield made
    made.context.close()
    assert made.complaints == []


# Asked for before the page, and so closed after it: a page that still wants tiles from a closed server complains.
@pytest.fixture
def site(results, serve, built_page):
    with serve(*results, page=built_page) as client:
        yield client


@pytest.fixture(scope="session")
def seen(template, serve, built_page):
    """For tests that decide nothing."""
    with serve(template / "first", template / "second", page=built_page) as client:
        yield client


def test_the_page_asks_nobody_but_its_own_server(wide, seen):
    page = wide.slide(seen, 0, "square")
    settled(page)
    assert {where for where in wide.asked if where.startswith("http")} == {f"http://{seen.host}"}


def names(page):
    return page.locator("table.slides tbody td:first-child a").all_inner_texts()


def test_the_table_lists_sorts_and_filters(opened, seen):
    page = opened.go(seen)
    page.wait_for_selector("table.slides td")
    assert names(page) == ["bad", "other", "square", "square"]
    assert "4 of 4 slides: 3 scored, 0 abstained, 1 failed." in page.inner_text(".summary")
    assert "Research use only" in page.inner_text("header")
    if page.viewport_size["width"] == WIDE[0]:
        page.get_by_role("button", name="Slide").click()
        assert names(page) == ["square", "square", "other", "bad"]
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("Slide")
        page.get_by_role("button", name="Confidence").click()
        # What is missing stays below, whichever way round.
        assert names(page)[-1] == "bad"
        page.get_by_role("button", name="Confidence").click()
        assert names(page)[-1] == "bad"
    else:
        page.get_by_label("Sort by").select_option("by slide")
        page.get_by_role("button", name="Reverse order").click()
        assert names(page) == ["square", "square", "other", "bad"]
    page.get_by_label("Filter the table").fill("truncated")
    assert names(page) == ["bad"]
    page.get_by_label("Filter the table").fill("")
    page.get_by_label("Status").select_option("scored")
    assert "bad" not in names(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_failed_slide_says_why(opened, seen):
    page = opened.go(seen)
    page.wait_for_selector("table.slides td")
    assert "The file is truncated" in page.locator("tr.failed").inner_text()
    page.get_by_role("link", name="bad").click()
    page.wait_for_selector(".notice.failed")
    assert "3 of its 12 stored tiles lie beyond its end" in page.inner_text(".notice.failed")
    assert page.locator(".pane").count() == 0


def test_a_patient_has_a_page(wide, seen):
    page = wide.go(seen)
    page.locator("table.slides").get_by_role("link", name="patient 1").first.click()
    page.wait_for_selector("h1:has-text('Patient patient 1')")
    assert set(names(page)) == {"bad", "other", "square"}


def canvas(page, which, pane=0):
    """Pixels of a canvas as (rows, columns, 4), and where it lies: left, top, level-0 px per CSS px."""
    found = page.evaluate(
        """([which, number]) => {
          const pane = document.querySelectorAll(".pane")[number];
          return {picture: pane.querySelector(which).toDataURL("image/png"), ...pane.dataset};
        }""",
        [which, pane],
    )
    pixels = cv2.imdecode(
        np.frombuffer(base64.b64decode(found["picture"].split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED
    )
    return pixels[..., [2, 1, 0, 3]], (float(found["left"]), float(found["top"]), 1 / float(found["scale"]))


def overlay(page, pane=0):
    """What the layers draw."""
    return canvas(page, ".layers", pane)


def settled(page):
    """Wait until nothing moves any more and nothing is being loaded."""
    page.wait_for_load_state("networkidle")
    before = None
    for _ in range(50):
        now = page.evaluate("JSON.stringify([...document.querySelectorAll('.pane')].map((p) => ({...p.dataset})))")
        if now == before:
            return
        before = now
        page.wait_for_timeout(120)
    raise AssertionError("the view does not come to rest")


def test_the_overlay_lies_on_the_slide(wide, seen, template):
    """The square, measured on the screen: in the overlay and in the slide below it."""
    stride = 64 / 0.499
    truth = np.array(SQUARE_CELLS) * stride
    x, y = truth[[0, 2]].mean(), truth[[1, 3]].mean()
    page = wide.slide(seen, 0, "square", f"?x={x:.0f}&y={y:.0f}&s=1.5")
    page.locator(".detections input[type=checkbox]").first.uncheck()
    page.get_by_label("Tissue only").uncheck()
    page.get_by_label("Show", exact=True).select_option("tumour")
    page.get_by_label("Threshold").fill("0.5")
    settled(page)
    page.evaluate("document.querySelectorAll('.map, .scale-bar').forEach((e) => e.remove())")
    pixels, (left, top, size) = overlay(page)
    shown = pixels[..., 3] > 60
    # The hotspot's line crosses the canvas too: rows and columns of the square are those with a long run.
    rows, columns = np.flatnonzero(shown.sum(axis=1) > 150), np.flatnonzero(shown.sum(axis=0) > 150)
    found = np.array(
        [left + columns[0] * size, top + rows[0] * size, left + (columns[-1] + 1) * size, top + (rows[-1] + 1) * size]
    )
    assert found == pytest.approx(truth, abs=1.5 * size)

    page.get_by_label("Show", exact=True).select_option("none")
    settled(page)
    screen = canvas(page, ".stage .openseadragon-canvas > canvas")[0][..., :3].astype(int)
    dark = (screen.sum(axis=2) < 420) & (screen[..., 2] > screen[..., 1] + 30)
    rows, columns = np.flatnonzero(dark.sum(axis=1) > 150), np.flatnonzero(dark.sum(axis=0) > 150)
    found = np.array(
        [left + columns[0] * size, top + rows[0] * size, left + (columns[-1] + 1) * size, top + (rows[-1] + 1) * size]
    )
    # The slide shows the square to the nearest of its own pixels.
    assert found == pytest.approx(np.rint(truth), abs=1.25 * size)


def where(page, pane=0):
    """Level-0 position of the pane's corner, and CSS px per level-0 px."""
    found = page.evaluate("(pane) => ({...document.querySelectorAll('.pane')[pane].dataset})", pane)
    return [float(found[name]) for name in ("left", "top", "scale")]


def screenshot(page, pane=0):
    """What is on the screen in a pane, as (rows, columns, 3)."""
    data = page.locator(".pane").nth(pane).screenshot()
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_full_resolution_is_the_slide_pixel_for_pixel(wide, seen, template):
    from pathology.slide.open import open_reader

    page = wide.slide(seen, 0, "square", "?x=1500&y=1200&s=1")
    page.locator(".detections input[type=checkbox]").first.uncheck()
    page.get_by_label("Show", exact=True).select_option("none")
    settled(page)
    page.evaluate("document.querySelectorAll('.map, .scale-bar, .layers').forEach((e) => e.remove())")
    page.wait_for_timeout(200)
    left, top, scale = where(page)
    assert scale == pytest.approx(1, abs=1e-4)
    shown = screenshot(page).astype(float)
    with open_reader(open_results(template / "first")["square"].record.path) as reader:
        true = reader.read(0, round(left), round(top), shown.shape[1], shown.shape[0]).astype(float)
    part = (slice(100, 500), slice(100, 900))
    # Half a pixel of rest between screen and slide is blurred by the browser; a pixel off would be three times this.
    assert np.abs(shown[part] - true[part]).mean() < 3
    assert np.corrcoef(shown[part].ravel(), true[part].ravel())[0, 1] > 0.9


def test_classes_colours_and_opacity_change_the_picture(wide, seen):
    page = wide.slide(seen, 0, "square")
    settled(page)
    looks = {}
    for name in ("predicted class", "tumour", "stroma"):
        page.get_by_label("Show", exact=True).select_option(name)
        settled(page)
        looks[name] = overlay(page)[0]
    assert not any((looks[a] == looks[b]).all() for a, b in (("predicted class", "tumour"), ("tumour", "stroma")))
    page.get_by_label("Colours").select_option("cividis")
    settled(page)
    assert not (overlay(page)[0] == looks["stroma"]).all()
    page.get_by_label("Opacity").fill("0.2")
    settled(page)
    assert overlay(page)[0][..., 3].mean() < looks["stroma"][..., 3].mean()
    page.get_by_label("Smooth").check()
    page.get_by_label("Greyscale slide").check()
    grey = screenshot(page).astype(int)[300:500, :60]
    assert np.abs(grey - grey.mean(axis=2, keepdims=True)).max() < 12


def test_layers_of_tissue_and_quality(wide, seen):
    page = wide.slide(seen, 0, "square")
    page.locator(".detections input[type=checkbox]").first.uncheck()
    page.get_by_label("Show", exact=True).select_option("none")
    settled(page)
    before = overlay(page)[0]
    page.get_by_label("Pen marks").check()
    settled(page)
    pixels, (left, top, size) = overlay(page)
    new = (pixels != before).any(axis=2)
    rows, columns = np.flatnonzero(new.sum(axis=1) > 50), np.flatnonzero(new.sum(axis=0) > 50)
    # The constructed pen mark is the ninth of the slide in its first corner.
    found = [left + columns[0] * size, top + rows[0] * size, left + columns[-1] * size, top + rows[-1] * size]
    assert found == pytest.approx([0, 0, 1000, 800], abs=25)


def test_detections_are_decided_by_keyboard(site, opened, results):
    page = opened.slide(site, 0, "square")
    settled(page)
    total = int(page.inner_text("[data-count=total]"))
    detections = open_results(results[0])["square"].detections
    assert total == detections.counted().sum()
    page.keyboard.press("n")
    page.wait_for_selector(".detection >> text=No. 1")
    first = 0 if detections.counted()[0] else int(np.flatnonzero(detections.counted())[0])
    for _ in range(first):
        page.keyboard.press("n")
    page.wait_for_selector(f".detection >> text=No. {first + 1}")
    page.keyboard.press("r")
    page.wait_for_selector("[data-verdict=rejected]")
    assert page.inner_text("[data-count=total]") == str(total - 1)
    assert page.inner_text("[data-count=rejected]") == "1"
    assert f"Detection {first + 1} rejected. Count: {total - 1}." in page.inner_text(".message")
    page.keyboard.press("u")
    page.wait_for_selector("[data-verdict=none]")
    assert page.inner_text("[data-count=total]") == str(total)
    page.keyboard.press("a")
    page.wait_for_selector("[data-verdict=accepted]")
    page.reload()
    page.wait_for_selector(".pane[data-scale]")
    assert page.inner_text("[data-count=accepted]") == "1"
    saved = json.loads((results[0] / "slides" / "square" / "decisions.json").read_text())
    assert [(d["row"], d["verdict"]) for d in saved["decisions"]] == [(first, "accepted")]


def test_keys_pressed_fast_are_all_done_in_order(site, wide, results):
    page = wide.slide(site, 0, "square")
    settled(page)
    for key in "nrnanrnu":
        page.keyboard.press(key)
    page.wait_for_selector(".message >> text=reset to unreviewed")
    decisions = open_results(results[0])["square"].decisions()
    assert [d.verdict for d in decisions.values()] == ["rejected", "accepted", "rejected"]


def test_a_click_chooses_a_detection(site, wide, results):
    left, top, right, bottom = open_results(results[0])["square"].detections.found.boxes[0].tolist()
    page = wide.slide(site, 0, "square", f"?x={(left + right) / 2:.0f}&y={(top + bottom) / 2:.0f}&s=1")
    settled(page)
    box = page.locator(".pane").bounding_box()
    x, y, scale = where(page)
    page.mouse.click(
        box["x"] + ((left + right) / 2 - x) * scale,
        box["y"] + ((top + bottom) / 2 - y) * scale,
    )
    page.wait_for_selector(".detection >> text=No. 1")


def test_everything_can_be_reached_by_keyboard_alone(opened, seen):
    page = opened.go(seen)
    page.wait_for_selector("table.slides td")
    focused = "document.activeElement"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(f"{focused}.textContent") == "square":
            break
    assert page.evaluate(f"{focused}.tagName") == "A"
    # What has the focus can be seen to have it.
    assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector(".pane[data-scale]")
    assert page.evaluate(f"{focused}.className") == "pane"
    settled(page)

    before = where(page)
    page.keyboard.press("6")  # 40x
    settled(page)
    scale = where(page)[2]
    assert scale == pytest.approx(0.499 * 40 / 10, rel=1e-3)
    assert page.locator("button[aria-pressed=true]", has_text="40x").count() == 1
    page.keyboard.press("ArrowRight")
    page.keyboard.press("-")
    page.keyboard.press("0")
    settled(page)
    assert where(page) == pytest.approx(before, abs=0.05)

    page.keyboard.press("h")
    assert page.get_by_label("Show", exact=True).input_value() == ""
    page.keyboard.press("c")
    assert page.get_by_label("Show", exact=True).input_value() == "predicted"
    page.keyboard.press("t")
    assert page.get_by_label("Tissue (outline)").is_checked()
    page.keyboard.press("s")
    settled(page)
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    # Through every control of the panel and back to the picture.
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(f"{focused}.outerHTML.slice(0, 60)"))
    assert sum("checkbox" in control for control in reached) >= 1
    assert any("<select" in control for control in reached)
    assert any("range" in control for control in reached)
    page.locator(".pane").first.focus()
    page.keyboard.press("Escape")
    page.wait_for_selector("table.slides")


def test_typing_in_a_control_is_no_command(wide, seen):
    page = wide.slide(seen, 0, "square")
    settled(page)
    page.get_by_label("Opacity").focus()
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.keyboard.press("ArrowRight")
    assert page.locator(".message").inner_text() == ""


def test_two_models_side_by_side_move_together(opened, seen):
    page = opened.slide(seen, 0, "square")
    page.get_by_label("Compare with").select_option(index=1)
    page.wait_for_selector(".pane:nth-child(2)[data-scale]")
    settled(page)
    page.locator(".pane").first.focus()
    page.keyboard.press("4")
    settled(page)
    assert where(page, 0) == pytest.approx(where(page, 1), abs=3)
    assert where(page, 0)[2] == pytest.approx(where(page, 1)[2], abs=1e-3)
    assert page.locator(".pane-name").all_inner_texts() == ["first: constructed 1.0.0", "second: constructed 1.0.0"]
    # A class that only one of them has does not trouble the other.
    page.get_by_label("Show", exact=True).select_option("tumour")
    settled(page)
    assert overlay(page, 0)[0].any()
    assert overlay(page, 1)[0].any()
    page.get_by_label("Compare with").select_option(index=0)
    assert page.locator(".pane").count() == 1
    assert page.locator(".pane-name").count() == 0


def test_detections_of_the_other_model_are_shown_beside(wide, seen):
    page = wide.slide(seen, 1, "square")
    page.get_by_label("Show", exact=True).select_option("none")
    page.get_by_label("Compare with").select_option(index=1)
    page.wait_for_selector(".pane:nth-child(2)[data-scale]")
    settled(page)
    assert not overlay(page, 0)[0].any()
    assert overlay(page, 1)[0].any()


def test_a_slide_whose_file_has_moved_is_still_shown(site, opened, results):
    (results[0].parent / "slides").rename(results[0].parent / "gone")
    page = opened.slide(site, 0, "square")
    settled(page)
    assert "is missing" in page.inner_text(".notices")
    assert "stored overview" in page.inner_text(".notices")
    assert screenshot(page).std() > 10
    pixels, _ = overlay(page)
    assert pixels[..., 3].any()


def test_a_slide_that_goes_away_while_it_is_looked_at(browser, site, results):
    """Tiles that do not come any more are said to be missing; the page goes on."""
    made = Opened(browser, WIDE)
    page = made.slide(site, 0, "square")
    settled(page)
    site.server._batch.slides.close()
    site.server._batch.tiles = type(site.server._batch.tiles)(0)
    page.keyboard.press("6")
    page.wait_for_selector(".message.failed")
    assert "cannot be read" in page.inner_text(".message")
    made.context.close()


def test_the_place_is_kept_in_the_address(wide, seen):
    page = wide.slide(seen, 0, "square")
    settled(page)
    page.keyboard.press("5")
    settled(page)
    page.wait_for_url("**&s=*")
    place = where(page)
    address = page.url
    assert re.search(r"\?x=\d+&y=\d+&s=", address)
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".pane[data-scale]")
    settled(page)
    assert where(page) == pytest.approx(place, abs=2)
    assert where(page)[2] == pytest.approx(place[2], rel=1e-3)


def test_the_scale_bar_is_true(opened, seen):
    page = opened.slide(seen, 0, "square")
    for key in ("0", "3", "6"):
        page.keyboard.press(key)
        settled(page)
        text = page.inner_text(".scale-bar")
        value, unit = text.split()
        micrometres = float(value) * (1000 if unit == "mm" else 1)
        width = page.locator(".scale-bar").bounding_box()["width"]
        scale = where(page)[2]
        assert width * 0.499 / scale == pytest.approx(micrometres, rel=0.02)


def test_no_page_scrolls_sideways(opened, seen):
    for where in ("", "#/slide/0/square", "#/slide/0/bad", "#/patient/patient%201", "#/slide/9/nothing"):
        page = opened.go(seen, where)
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), where
    assert page.get_by_role("alert").is_visible()
    # A slide that does not exist is the one thing the browser itself complains about here.
    opened.complaints = [c for c in opened.complaints if "400" not in c]


def test_the_real_slide(opened, serve, built_page, cmu_slide, tmp_path):
    """A batch of real slides as `pathology score` makes it: with one that cannot be read."""
    from pathology.scoring.batch import score
    from pathology.testing.random_bundle import write_random_bundle

    bundle = write_random_bundle(tmp_path / "bundle", patch=64, mpp=2.0)
    broken = tmp_path / "broken.svs"
    broken.write_bytes(cmu_slide.read_bytes()[:200_000])
    score([cmu_slide, broken], bundle, tmp_path / "out")
    with serve(tmp_path / "out", page=built_page) as client:
        page = opened.go(client)
        page.wait_for_selector("table.slides td")
        assert names(page) == ["broken", "CMU-1-Small-Region"]
        assert page.locator("tr.failed .reason").inner_text()
        page.get_by_role("link", name="CMU-1-Small-Region").click()
        page.wait_for_selector(".pane[data-scale]")
        page.keyboard.press("h")
        page.keyboard.press("5")  # 20x: all the slide has
        settled(page)
        assert screenshot(page).std() > 10
        page.goto("about:blank")
