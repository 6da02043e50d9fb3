"""The page for people: what stands on it, that it loads nothing, and that nothing steers it."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from sklearn.calibration import calibration_curve

from wine_drift.chronicle import Estimate, Point, thinned
from wine_drift.errors import StateUnreadable
from wine_drift.ledger import Ledger
from wine_drift.measures import wilson
from wine_drift.model import read_reference
from wine_drift.outcomes import count_outcomes, score_groups
from wine_drift.page import Page, Told, render
from wine_drift.portrait import Live, gather
from wine_drift.publishing import POLICY, serve
from wine_drift.settings import Settings
from wine_drift.standing import standing_of

Cli = Callable[..., Result]
VOID = {"meta", "br", "hr", "img", "input", "link", "path", "rect", "use"}
SMALL = ("--source", "simulated", "--rounds", "20", "--threads", "1")
HOSTILE = "<script>alert('\"1\"')</script>&amp;$x^2$ {{ 7*7 }}"


class Parsed(HTMLParser):
    """A page: its texts, the attributes of its elements, and whether each that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element of a drawing that is empty."""
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Close what was opened last, and nothing else."""
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep a text, styles apart."""
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that can be read, with single spaces."""
        return " ".join(" ".join(self.texts).split())


def page_of(home: Path, **changes: Any) -> Page:
    """What stands on the page of a home right after its last run."""
    with Ledger.open(home, read_only=True) as ledger:
        run = ledger.last_run()
        now = run["finished_at"] if run else 0.0
        settings = Settings(home=home)
        stands = standing_of(ledger, settings, now=now)
        return replace(gather(settings, ledger, stands), **changes)


def drawn(page: Page) -> Parsed:
    """The page, parsed."""
    return Parsed(render(page, policy=POLICY))


@pytest.fixture
def page(drifted_home: Path) -> Page:
    """Its page."""
    return page_of(drifted_home)


# --- what stands on it ---


def test_an_empty_home_has_a_friendly_page(cli: Cli) -> None:
    """Nothing is there yet: the page tells how to begin, and is no error."""
    assert cli("report", "--home", "none", "--out", "report.html").output == (
        "wrote report.html: look\n"
    )
    told = Parsed(Path("report.html").read_text())
    assert "Nothing has run here yet." in told.text and "wine-drift run-batch" in told.text
    assert "svg" not in {tag for tag, _ in told.elements}
    assert not Path("none").exists()


def test_a_home_with_only_a_champion(cli: Cli, red_wine_csv: Path) -> None:
    """The model is told of, and that no batch has come yet."""
    cli("train", "--home", "home", "--data", red_wine_csv, "--rounds", 5)
    told = drawn(page_of(Path("home").resolve()))
    assert "No run yet: the champion waits for its first batch." in told.text
    assert "! Look here" in told.text
    assert "Versions of the model" in told.text


def test_one_run(cli: Cli) -> None:
    """One batch is a page with all its parts; what there is none of says so."""
    cli("run-batch", "--home", "home", *SMALL)
    told = drawn(page_of(Path("home").resolve()))
    assert "Healthy" in told.text and "No column has drifted in the 1 batches" in told.text
    assert "No challenger was tried" in told.text and "None in the history." in told.text
    assert "Simulated data" in told.text
    assert sum(tag == "svg" for tag, _ in told.elements) == 9  # 4 over time at 2 widths, 1 more


def test_drift_is_told_in_words_and_figures(page: Page) -> None:
    """Verdict, drifted columns with unit and histogram, faults, runs and versions."""
    told = drawn(page)
    assert page.latest and page.alarm == page.latest
    assert "✕ Act" in told.text and "he data has drifted a lot" in told.text
    assert "Batch bad.csv is in quarantine" in told.text and "Bad.csv" not in told.text
    assert "bad.csv" in told.text and "refused" in told.text
    first = page.shapes[0].name
    feature = next(f for f in page.latest.record["drift"]["features"] if f["name"] == first)
    assert f"{first} {feature['unit']}" in told.text
    assert f"{feature['severity']:.2f}" in told.text
    assert f"Values of {first}" in told.text
    drawings = [attributes for tag, attributes in told.elements if tag == "svg"]
    assert all(each["role"] == "img" for each in drawings)
    assert len(drawings) == 9 + min(len(page.shapes), 6)
    evident = [
        attributes for tag, attributes in told.elements if " e" in attributes.get("class", "")
    ]
    assert len(evident) >= len(page.shapes)
    assert page.champion and page.champion in told.text


def test_every_drawing_says_what_it_shows(page: Page) -> None:
    """A title, a description, and the same as a text that all can read."""
    told = drawn(page)
    names = [tag for tag, _ in told.elements]
    assert names.count("desc") == names.count("svg") > 0
    assert names.count("title") == names.count("svg") + 1  # and that of the page
    text = render(page, policy=POLICY)
    for says in re.findall("<desc>(.*?)</desc>", text):
        assert f"<figcaption>{says}</figcaption>" in text


def test_histograms_are_those_of_batch_and_reference(drifted_home: Path, page: Page) -> None:
    """Shares of the counts in the record, and of those of the version that scored it."""
    assert page.alarm
    with Ledger.open(drifted_home, read_only=True) as ledger:
        (manifest,) = [
            each
            for each in ledger.versions()
            if page.alarm.record["model"]["version"] == each["version"]
        ]
    reference = read_reference(drifted_home / "models", manifest)
    drifted = {each["name"] for each in page.alarm.record["drift"]["features"] if each["drifted"]}
    assert {shape.name for shape in page.shapes} == drifted
    for shape in page.shapes:
        j = reference.columns.index(shape.name)
        assert shape.edges == tuple(reference.edges[j])
        assert len(shape.batch) == len(shape.reference) == len(shape.edges) + 1
        assert sum(shape.batch) == pytest.approx(1) == sum(shape.reference)
        counts = reference.profile.counts[j]
        assert shape.reference == pytest.approx(counts[counts > 0] / counts.sum())


def test_no_histogram_without_its_reference(drifted_home: Path, tmp_path: Path) -> None:
    """The reason stands there instead, and all else as before."""
    home = Path(shutil.copytree(drifted_home, tmp_path / "home"))
    for path in (home / "models").glob("*/reference.json"):
        path.unlink()
    told = drawn(page_of(home))
    assert "No histograms: the reference of v1-" in told.text and "cannot be read" in told.text
    assert "Every column in batch 5" in told.text


def test_a_batch_without_labels(cli: Cli, page: Page) -> None:
    """Quality is absent with its reason, never 0."""
    assert page.latest
    record = json.loads(json.dumps(page.latest.record))
    for measure in ("log_loss", "roc_auc"):
        record["quality"][measure] = None
        record["quality"]["intervals"].pop(measure, None)
        record["quality"]["undefined"][measure] = "no labelled rows"
    points = tuple(replace(each, log_loss=Estimate(), roc_auc=Estimate()) for each in page.points)
    latest = Told(page.latest.at, record)
    told = drawn(replace(page, points=points, latest=latest, answered=record))
    assert told.text.count("no labelled rows") == 3  # the facts, and in place of two drawings
    assert "nan" not in render(page, policy=POLICY).lower().replace("font", "")


def test_ten_thousand_batches_make_a_small_page(page: Page) -> None:
    """The past is cut down, and no alarm of it is lost."""
    points = [
        replace(page.points[k % 3], sequence=k + 1, at=1.7e9 + 900 * k) for k in range(10_000)
    ]
    for k in (4_321, 9_900):
        points[k] = replace(page.points[4], sequence=k + 1, at=points[k].at)
    text = render(replace(page, points=tuple(points)), policy=POLICY)
    assert len(text) < 600_000
    told = Parsed(text)
    assert "Of 10000 batches 2 had as much for drift" in told.text
    cells = [attributes.get("class", "") for tag, attributes in told.elements if tag == "i"]
    assert sum(" e" in each for each in cells) - 1 == len(page.points[4].columns)  # 1: the legend
    assert "over the last 240 batches" in told.text
    assert "Each point is the median of 25 batches" in told.text


def test_thinning_keeps_the_worst() -> None:
    """Of every group the largest evidence and severity; the medians of what was measured."""
    rng = np.random.default_rng(0)
    points = [
        Point(
            *(k, float(k), "v1", Estimate(*rng.random(3)), Estimate(), 0.1, 0.9),
            *(rng.normal() if k % 3 else float("nan"), rng.normal(), rng.random()),
            {"pH": (rng.random(), bool(k == 50))},
            refused=k == 70,
        )
        for k in range(101)
    ]
    few = thinned(points, 10)
    assert len(few) == 10 and few[-1].sequence == 100
    for k, each in enumerate(few):
        part = points[11 * k : 11 * k + 11]
        assert each.log_loss.value == np.median([one.log_loss.value for one in part])
        assert each.drift_evidence == np.nanmax([one.drift_evidence for one in part])
        assert each.columns["pH"][0] == max(one.columns["pH"][0] for one in part)
        assert np.isnan(each.roc_auc.value)
    assert [k for k, each in enumerate(few) if each.columns["pH"][1]] == [4]
    assert [k for k, each in enumerate(few) if each.refused] == [6]
    assert thinned(points, 101) == points and thinned([], 5) == []


def test_groups_of_scores_are_those_of_scikit_learn() -> None:
    """Equally many rows in each; shares and mean scores up to the width of a bin of scores."""
    rng = np.random.default_rng(1)
    scores = rng.beta(2, 5, 20_000)
    positive = rng.random(20_000) < scores**1.3
    groups = score_groups(count_outcomes(scores, np.ones(20_000, bool), positive), 5)
    shares, means = calibration_curve(positive, scores, n_bins=5, strategy="quantile")
    assert [n_positive / n for n, n_positive, _ in groups] == pytest.approx(shares, abs=0.015)
    assert [score for *_, score in groups] == pytest.approx(means, abs=0.01)
    assert sum(n for n, *_ in groups) == 20_000
    assert sum(n_positive for _, n_positive, _ in groups) == positive.sum()


def test_calibration_is_that_of_the_recent_rows(page: Page) -> None:
    """Its limits are Wilson's, and the table says the same as the drawing."""
    assert page.groups
    for group in page.groups:
        n = round(group.n_rows)
        assert group.came[1:] == wilson(round(group.came.value * n), n)
        assert 0 <= group.promised <= 1
    assert f"{page.groups[0].promised * 100:.1f} %" in drawn(page).text


# --- nothing steers it ---


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The same with other texts, in keys as well."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {renamed(k, names): renamed(v, names) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        each = {f.name: renamed(getattr(value, f.name), names) for f in dataclasses.fields(value)}
        return type(value)(**each)
    if isinstance(value, Estimate) or not isinstance(value, list | tuple):
        return value
    return type(value)(renamed(part, names) for part in value)


def test_hostile_names_are_texts(page: Page) -> None:
    """Columns, units, files, errors and versions of any content change nothing but texts."""
    assert page.latest and page.champion
    texts = {page.shapes[0].name, page.latest.record["batch"]["name"], "bad.csv", page.champion}
    texts |= {"g/dm³", page.title}
    names = {text: f"{HOSTILE}{k}" for k, text in enumerate(sorted(texts))}
    names[page.faulty[0].record["error"]] = HOSTILE
    before, after = drawn(page), drawn(renamed(page, names))
    assert [tag for tag, _ in after.elements] == [tag for tag, _ in before.elements]
    assert [set(found) for _, found in after.elements] == [
        set(found) for _, found in before.elements
    ]
    for name in names.values():
        assert name in after.text


def test_what_steers_is_not_on_the_page(page: Page) -> None:
    """Neither in its texts nor in its drawings: names that turn the text around, and escapes."""
    assert page.latest and page.champion
    odd = "a\x1b[2Jb\u202ec\u2066d\x9be"
    texts = {page.shapes[0].name, page.latest.record["batch"]["name"], page.champion, page.title}
    text = render(renamed(page, dict.fromkeys(texts, odd)), policy=POLICY)
    assert text.replace("\n", "").isprintable()
    assert text.count("a�[2Jb�c�d�e") > len(texts)


def test_letters_that_matplotlib_lacks(page: Page) -> None:
    """They are the browser's to draw, and no warning; dollars are no formula."""
    versions = {point.version: "酒🍷$x^2$" for point in page.points[2:]}
    points = tuple(
        replace(each, version=versions[each.version] if k >= 2 else each.version)
        for k, each in enumerate(page.points)
    )
    assert "酒🍷$x^2$" in drawn(replace(page, points=points)).text


def test_nothing_is_loaded_and_nothing_runs(page: Page) -> None:
    """No script, no address but those of shapes inside, and the policy that says so."""
    text = render(page, policy=POLICY)
    told = Parsed(text)
    tags = {tag for tag, _ in told.elements}
    assert tags & {"script", "link", "iframe", "object", "embed", "img", "base", "form"} == set()
    for _, attributes in told.elements:
        assert not [key for key in attributes if key.startswith("on") or key == "src"]
        assert all(v.startswith("#") for k, v in attributes.items() if k in ("href", "xlink:href"))
    assert not re.findall(r"url\((?!#)|@import|https?://", text)
    policies = [found["content"] for tag, found in told.elements if "http-equiv" in found]
    assert policies == [POLICY] and POLICY.startswith("default-src 'none'")


def test_names_inside_are_used_once(page: Page) -> None:
    """Drawings stand side by side: no two share the name of a shape, and each is there."""
    told = drawn(page)
    names = [found["id"] for _, found in told.elements if "id" in found]
    assert len(names) == len(set(names))
    used = {found["xlink:href"][1:] for _, found in told.elements if "xlink:href" in found}
    used |= {name for _, f in told.elements for name in re.findall(r"url\(#(\w+)\)", str(f))}
    assert used and used <= set(names)


# --- the commands ---


def test_the_file_is_for_others_to_read(cli: Cli, drifted_home: Path) -> None:
    """It appears whole, in a folder that is there; the verdict is told."""
    assert "no folder" in cli("report", "--home", drifted_home, "--out", "new/a", code=2).stderr
    Path("new").mkdir()
    told = cli("report", "--home", drifted_home, "--out", "new/report.html")
    assert re.fullmatch("wrote new/report.html: (look|act)\n", told.output)
    assert stat.S_IMODE(Path("new/report.html").stat().st_mode) == 0o644
    assert [path.name for path in Path("new").iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_the_page_can_go_to_standard_output(cli: Cli, drifted_home: Path, name: str) -> None:
    """It and nothing else, to a pipe or at the end of a file; with --json there is no room."""
    words = [sys.executable, "-m", "wine_drift", "report", "--home", str(drifted_home)]
    words += ["--out", name]
    page = subprocess.run(words, capture_output=True, check=True)
    assert page.stdout.startswith(b"<!doctype html>") and page.stdout.endswith(b"</html>")
    assert page.stderr == b""
    Path("page.html").write_bytes(b"before\n")
    with Path("page.html").open("ab") as file:
        subprocess.run(words, stdout=file, check=True)
    both = Path("page.html").read_bytes()
    assert both.startswith(b"before\n<!doctype html>") and both.endswith(b"</html>")
    refused = subprocess.run([*words, "--json"], capture_output=True, check=False)
    assert refused.returncode == 2 and refused.stdout == b""
    assert b"and --json: both write to standard output" in refused.stderr
    assert [path.name for path in Path().iterdir()] == ["page.html"]


def test_a_user_without_a_folder(drifted_home: Path) -> None:
    """Where matplotlib can keep nothing, it is quiet about that."""
    words = ["report", "--home", str(drifted_home), "--out", "report.html"]
    done = subprocess.run(
        [sys.executable, "-m", "wine_drift", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": os.devnull, "MPLCONFIGDIR": f"{os.devnull}/none"},
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("out", "words"), [((), "--out"), (("--out", "/"), "name a file")])
def test_no_file_to_write(cli: Cli, drifted_home: Path, out: tuple[str, ...], words: str) -> None:
    """What, and the remedy; nothing is written."""
    assert words in cli("report", "--home", drifted_home, *out, code=2).stderr
    assert list(Path().iterdir()) == []


def test_a_page_is_made_anew_when_there_is_news(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new entry of the ledger, or that there has been none for too long."""
    cli("run-batch", "--home", "home", *SMALL)
    clock = [time.time()]
    live = Live(Settings(home=Path("home")), now=lambda: clock[0])
    made: list[Page] = []

    def counted(page: Page, *, policy: str) -> str:
        made.append(page)
        return render(page, policy=policy)

    monkeypatch.setattr("wine_drift.page.render", counted)
    first = live()
    assert live() is first and len(made) == 1 and b"Healthy" in first
    cli("run-batch", "--home", "home", *SMALL)
    assert live() != first and len(made) == 2
    clock[0] += 3 * 900
    assert b"No run has ended well for 45 min" in live() and len(made) == 3
    assert live() and len(made) == 3
    clock[0] += 5 * 86_400
    assert b"No run has ended well for 5.0 days" in live() and len(made) == 4


def asked(address: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of an answer."""
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}, content


def test_a_page_is_served_beside_the_metrics() -> None:
    """At / with strict headers; the metrics as ever; what fails is told, and is no page."""
    with serve(list, host="127.0.0.1", port=0, page=lambda: b"<!doctype html>") as address:
        status, headers, content = asked(address, "/")
        assert (status, content) == (200, b"<!doctype html>")
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert headers["content-security-policy"] == f"{POLICY}; frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert asked(address, "/metrics")[1]["content-type"].startswith("text/plain")
        assert asked(address, "/", "POST")[0] == 405 and asked(address, "/x")[0] == 404

    def damaged() -> bytes:
        raise StateUnreadable("ledger: damaged", remedy="repair")

    with serve(list, host="127.0.0.1", port=0, page=damaged) as address:
        assert asked(address, "/")[::2] == (503, b"ledger: damaged\n")


@pytest.fixture
def serving(drifted_home: Path) -> Iterator[subprocess.Popen[str]]:
    """`wine-drift serve` of that home on a free port."""
    words = ["serve", "--home", str(drifted_home), "--metrics-port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "wine_drift", *words], stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_serve_shows_and_changes_nothing(
    serving: subprocess.Popen[str], drifted_home: Path
) -> None:
    """On loopback, until SIGTERM; every file of the home is as it was."""

    def files() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for path in drifted_home.rglob("*")
        }

    before = files()
    assert serving.stderr
    (address,) = re.findall(r"http://(127\.0\.0\.1:\d+)/ ", serving.stderr.readline())
    status, headers, content = asked(address, "/")
    assert status == 200 and "✕".encode() in content
    assert headers["content-length"] == str(len(content))
    assert b"wine_drift_batches_total" in asked(address, "/metrics")[2]
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(20) == 0
    assert files() == before


def test_serve_of_a_damaged_ledger(cli: Cli) -> None:
    """Told at once, with its exit code."""
    Path("home").mkdir()
    Path("home/ledger.sqlite").write_bytes(b"nothing to be read here" * 99)
    assert "ledger" in cli("serve", "--home", "home", "--metrics-port", 0, code=6).stderr
