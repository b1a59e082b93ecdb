"""The page of a comparison in headless Chromium: no error in its console, a table that sorts and filters."""

import json
import re
import shutil
import subprocess

import pytest

from odeframe.comparison.plan import Budget, Plan
from odeframe.comparison.report import report
from odeframe.comparison.statistics import Mean
from odeframe.comparison.summary import COSTS, Row

pytestmark = pytest.mark.browser

NAMES = ("chromium", "chromium-browser", "google-chrome")

WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("securitypolicyviolation", (event) => problems.push("asks for " + event.blockedURI));
for (const level of ["error", "warn"]) {
  const before = console[level];
  console[level] = (...parts) => { problems.push(parts.join(" ")); before.apply(console, parts); };
}
</script>"""

STEPS = """<script>
const found = {};
try {
const column = (title) => [...document.querySelectorAll("th")].findIndex((cell) => cell.textContent === title);
const lines = () => [...document.querySelectorAll("tbody tr")];
const texts = (title) => lines().map((line) => line.cells[column(title)].textContent);
const click = (target) => target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
const head = (title) => document.querySelectorAll("th")[column(title)];
found.first = texts("accuracy");
click(head("seconds"));
found.falling = texts("seconds");
click(head("seconds"));
found.rising = texts("seconds");
found.sorted = head("seconds").getAttribute("aria-sort");
click(head("solver"));
found.names = texts("solver");
const search = document.getElementById("search");
search.value = "rk4 resnet";
search.dispatchEvent(new Event("input"));
found.filtered = texts("seconds").length;
found.marks = document.querySelectorAll("#scatter .mark").length;
found.shown = document.getElementById("shown").textContent;
click(document.getElementById("clear"));
const select = document.querySelector('#selects select[aria-label="architecture"]');
select.value = "neural_ode";
select.dispatchEvent(new Event("change"));
found.selected = new Set(texts("architecture")).size + ":" + texts("architecture").length;
click(document.getElementById("clear"));
const line = document.querySelector("tbody tr.done");
click(line);
found.chosen = document.querySelectorAll("tr.chosen").length + document.querySelectorAll("#scatter .chosen").length;
found.note = document.getElementById("curve-note").textContent;
found.curves = document.querySelectorAll("#curves .curve").length;
click(document.querySelector("#scatter .mark.chosen"));
found.none = document.querySelectorAll(".chosen").length;
const failed = document.querySelector("tr.failed");
found.reason = failed.textContent.includes("SolveFailed: <" + "/script>");
click(failed);
found.failedChosen = document.querySelectorAll("tr.chosen").length;
for (const each of document.querySelectorAll("#plots select")) {
  for (const option of each.options) { each.value = option.value; each.dispatchEvent(new Event("change")); }
}
found.illegal = document.querySelectorAll("#illegal li").length;
found.wide = document.documentElement.scrollWidth - innerWidth;
} catch (error) { problems.push(error.stack); }
found.problems = problems;
document.body.dataset.found = JSON.stringify(found);
</script>"""


def browser() -> str:
    """The browser; fails, rather than skips in silence, where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(f"needs one of {', '.join(NAMES)} on the path: leave it out with -m 'not browser'", pytrace=False)
    return found


def page() -> str:
    """Twelve combinations, one of which failed, and four that are illegal."""
    axes = {
        "data": [{"name": "two_moons", "n": 40}],
        "architecture": ["resnet", "neural_ode"],
        "solver": ["euler", "rk4", "dopri5", "verlet"],
        "gradient": ["backprop", "checkpoint"],
    }
    plan = Plan(axes, [0, 1, 2], Budget("epochs", 3))
    rows = []
    for k, words in enumerate(plan.combinations):
        if k == 4:
            rows.append(Row(words, "failed", ["SolveFailed: </script> & <b>no"], failed=3))
            continue
        costs = {name: Mean(float((7 * k) % 11 + 1), 0.1 * k, 3) for name in COSTS}
        metrics = {"accuracy": Mean(0.5 + 0.03 * k, 0.01, 3), "loss": Mean(1 / (k + 1), None, 3)}
        curves = [{"seed": s, "epoch": [1, 2, 3], "val_accuracy": [0.1, 0.2 + 0.01 * s, 0.4]} for s in range(3)]
        rows.append(
            Row(words, "done", [], 3, 0, "accuracy", "max", metrics, costs, 10**k, "SUCCESS", curves, {"a": "1"})
        )
    rows += [Row(words, "illegal", [reason]) for words, reason in plan.illegal]
    return report(plan, rows, "odeframe compare ...")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("size", ["1300,900", "390,844"], ids=["desktop", "phone"])
def test_page_works(size, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page().replace("<title>", WATCH + "<title>").replace("</body>", STEPS + "</body>"), "utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    flags += (
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        f"--user-data-dir={tmp_path / 'profile'}",
    )
    command = [browser(), *flags, f"--window-size={size}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    match = re.search(r'data-found="([^"]*)"', done.stdout)
    assert match, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert found["problems"] == []
    numbers = [float(text.split(" ")[0]) for text in found["falling"] if text]
    assert len(numbers) == 11 and numbers == sorted(numbers, reverse=True) and found["falling"][-1] == ""
    rising = [float(text.split(" ")[0]) for text in found["rising"] if text]
    assert rising == sorted(numbers) and found["rising"][-1] == "" and found["sorted"] == "ascending"
    assert [float(text.split(" ")[0]) for text in found["first"][:2]] == [0.83, 0.8], "the best stand first"
    assert found["names"] == sorted(found["names"])
    assert found["filtered"] == 2 and found["marks"] == 2 and found["shown"] == "2 of 12 rows"
    assert found["selected"] == "1:6"
    assert found["chosen"] == 2 and found["note"] == "1 chosen" and found["curves"] == 3 and found["none"] == 0
    assert found["reason"] and found["failedChosen"] == 0, "a row without a result is nothing to draw"
    assert found["illegal"] == 4
    assert found["wide"] <= 0, "the page is no wider than the screen: the table scrolls within"
