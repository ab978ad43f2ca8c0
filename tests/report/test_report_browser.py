"""The HTML report in a real browser: headless Chromium with its driver, both as Debian packages them."""

import base64
import json
import re
import shutil

import pytest

from tests.support.runs import write_runs
from tests.support.simulated_runs import simulate_rows
from videobench.compare.comparison import CLASSES, compare_runs
from videobench.compare.settings import ComparisonSettings
from videobench.report.build import build_report
from videobench.report.page import FrameStrips, build_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
ATTACK = "<script>document.title = 'attacked'</script><img src='https://example.invalid/x.png' onerror=\"alert(1)\">"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """A report with flips of four classes in several sets; one question carries a script; all videos are missing, in a
    folder with a long name."""
    rows = simulate_rows(400, dtypes=("bfloat16", "bfloat16"))
    for name, (npu, gpu, right) in rows.items():
        rows[name] = (*({**each, "run": {**each["run"], "torch": "2.13.0"}} for each in (npu, gpu)), right)
    names = list(rows)
    for index, name in enumerate(names[:12]):
        npu, gpu, right = rows[name]
        npu = npu | {"output_sequence": ["no idea"]} if index % 2 else npu | {"error": ATTACK, "output_sequence": [""]}
        rows[name] = (npu | {"question": ATTACK}, gpu | {"question": ATTACK}, right)
    npu, gpu, right = rows[names[12]]  # a drift: every log-probability is another option's
    moved = dict(zip(npu["letter_logprobs"], reversed(npu["letter_logprobs"].values()), strict=True))
    rows[names[12]] = (npu | {"letter_logprobs": moved, "output_sequence": [max(moved, key=moved.get)]}, gpu, right)
    folder = tmp_path_factory.mktemp("report")
    comparison = compare_runs(ComparisonSettings(*write_runs(folder, rows)))
    strips = FrameStrips(folder / ("videos" * 20), budget_bytes=0)
    path = folder / "report.html"
    path.write_text(build_page(comparison, build_report(comparison), strips), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, page_path):
    def open_page(width=1280, scheme="light"):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
        browser.get(page_path.as_uri())
        return browser

    return open_page


def test_no_console_message_and_no_request(show, page_path):
    browser = show()
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # of earlier pages
    browser = show()
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"}
    assert urls <= {page_path.as_uri(), "data:,"}
    assert page_path.as_uri() in urls


def test_a_script_in_a_question_stays_text(show):
    browser = show()
    assert "attacked" not in browser.title
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script("return document.images.length") == 0
    questions = browser.execute_script("return [...document.querySelectorAll('.question')].map(e => e.textContent)")
    assert ATTACK in questions


def shown_flips(browser):
    shown = "[...document.querySelectorAll('.flip-panel')].filter(panel => panel.offsetParent)"
    script = f"return {shown}.map(panel => [panel.dataset.class, panel.dataset.set])"
    return [tuple(flip) for flip in browser.execute_script(script)]


def test_filters_by_class_and_set(show):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    browser = show()
    every = shown_flips(browser)
    assert {kind for kind, _ in every} == {"failed", "format", "drift", "tie"}
    by_class, by_set = (Select(browser.find_element(By.ID, name)) for name in ("by-class", "by-set"))
    by_class.select_by_value("format")
    formats = shown_flips(browser)
    assert formats == [flip for flip in every if flip[0] == "format"]
    assert browser.find_element(By.ID, "shown").text == f"{len(formats)} of {len(every)} shown"
    by_set.select_by_value(formats[0][1])
    assert shown_flips(browser) == [flip for flip in formats if flip[1] == formats[0][1]]
    by_class.select_by_value("")
    by_set.select_by_value("")
    assert shown_flips(browser) == every


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_layout_fits_the_window(show, width, scheme):
    browser = show(width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(16, 20, 27)"}[scheme]
    columns = browser.execute_script(
        "return getComputedStyle(document.querySelector('.flip-panels')).gridTemplateColumns"
    )
    assert len(columns.split()) == {390: 1, 1280: 2}[width]


COLLISIONS = """
const found = [];
for (const svg of document.querySelectorAll("svg")) {
  const boxes = [...svg.querySelectorAll("text")].map(each => [each.textContent, each.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect();
  boxes.forEach(([text, a], index) => {
    if (a.left < frame.left - 1 || a.right > frame.right + 1) found.push(`${text} is cut`);
    for (const [other, b] of boxes.slice(index + 1)) {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 4) found.push(`${text} on ${other}`);
    }
  });
}
return found;
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_label_of_a_plot_hides_another_or_is_cut(show, page_path, width):
    assert show(width).execute_script(COLLISIONS) == []


def test_every_class_of_flips_has_a_colour(show):
    script = f"""const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
        document.querySelector("svg").append(dot);
        return {list(CLASSES)}.filter(kind => {{
            dot.setAttribute("class", `flip is-${{kind}}`);
            return getComputedStyle(dot).fill === getComputedStyle(document.body).color; }})"""
    assert show().execute_script(script) == []


def test_the_end_names_date_files_and_versions(show, page_path):
    text = show().execute_script("return document.querySelector('footer').innerText")
    assert re.match(r"Written 20\d\d-\d\d-\d\d \d\d:\d\d UTC by precision_test.py, from:", text)
    assert all(str(page_path.with_name(f"{name}.json")) in text for name in ("npu_eval", "gpu_eval", "ANSWER"))
    assert text.endswith("Versions of the runs: torch 2.13.0.")


def test_a_table_that_is_wider_than_a_phone_says_that_it_goes_on(show):
    script = "return getComputedStyle(document.querySelector('.hint')).display"
    assert (show(390).execute_script(script), show(1280).execute_script(script)) == ("block", "none")
    scrolling = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert show(390).execute_script(scrolling) == 1
    assert show(1280).execute_script(scrolling) == 0


def test_it_prints_without_its_filters(show):
    browser = show()
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(pdf).startswith(b"%PDF")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return getComputedStyle(document.querySelector('.filters')).display") == "none"
    size = {"width": 718, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 without its margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 718
    assert browser.execute_script(COLLISIONS) == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
