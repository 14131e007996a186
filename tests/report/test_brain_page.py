import re

import pytest

from ipcl_jax.errors import InputError
from ipcl_jax.report import brain_page
from ipcl_jax.report.brain_page import Comparison, write_brain_page
from ipcl_jax.report.brain_summary import measures, summarise, unique
from made_up_brain import MODELS, made_up
from pages import Page, stands_alone

LAYERS, REGIONS = ["fc6", "fc7"], ["V1", "pOTC"]


def write(folder, tables, **options):
    models = unique(row.model for row in tables.layers)
    defaults = dict(
        command="ipcl brain --out 'a & b'", data="nsd", images=1515, models={name: f"sha of {name}" for name in models},
        files={"betas.hdf5": "a" * 64}, code="0.1.0+<9>", measures={"encoding": "A sentence <i>."},
        notes=["3 <u> left out"],
    )  # fmt: skip
    write_brain_page(folder / "brain.html", tables, Comparison(**defaults | options))
    text = (folder / "brain.html").read_text(encoding="utf-8")
    return text, Page(text)


def rows_of(text, *, after):
    """Rows of the first table after some words, as texts of their cells."""
    table = re.search(r"<table>(.*?)</table>", text[text.index(after) :]).group(1)
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    return [[re.sub("<small>", " ", cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in rows]


def plain(cell):
    return re.sub("<.*?>", "", cell)


@pytest.fixture(scope="module")
def tables():
    return made_up(layers=LAYERS, regions=REGIONS)


@pytest.fixture(scope="module")
def full(tables, tmp_path_factory):
    return write(tmp_path_factory.mktemp("full"), tables)


def test_page_stands_alone(full):
    stands_alone(*full)


def test_page_says_what_was_compared(full):
    _, page = full
    for said in (
        "3 models", *MODELS, *REGIONS, "4 subjects", "subj01, subj02, subj05 and subj07", "1,515 images of nsd",
        "konkle2022 and encoding", "chosen on the other half of the subjects", "Ceiling: split halves of subjects",
        "Ceiling: repeats of an image", "ipcl brain --out 'a & b'", "a" * 64, *(f"sha of {name}" for name in MODELS),
    ):  # fmt: skip
        assert said in page.text, said
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 4 and all(attrs["alt"] for attrs in pictures)
    assert sum(tag == "source" for tag, _ in page.tags) == 4  # for narrow screens


@pytest.mark.parametrize("measure", ["konkle2022", "encoding"])
def test_every_number_of_the_tables_is_that_of_the_input(measure, full, tables):
    text = full[0][full[0].index(f"<h2>{measure}</h2>") :]
    best = [row for row in tables.best if row.measure == measure]
    shown = rows_of(text, after="Best layers</h3>")
    assert shown[0] == ["model", *REGIONS] and len(shown) == 1 + len(MODELS) + 1
    for line, model in zip(shown[1:], MODELS, strict=False):
        means = [summarise([row for row in best if (row.model, row.region) == (model, region)]) for region in REGIONS]
        assert [plain(cell) for cell in line] == [model, *(f"{m.score:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in means)]
    tops = [[row.ceiling for row in best if row.region == region] for region in REGIONS]
    bounds = [(f"{min(top):.3f}", f"{max(top):.3f}") for top in tops]
    assert shown[-1] == ["ceiling", *(low if low == high else f"{low} to {high}" for low, high in bounds)]

    shown = rows_of(text, after="<details>")[1:]
    several = measure == "encoding"
    for line, row in zip(shown, best, strict=True):
        assert [plain(cell) for cell in line] == [
            row.region, row.model, *[row.subject] * several, f"{row.score:.3f} [{row.low:.3f}, {row.high:.3f}]",
            f"{row.ceiling:.3f}", ", ".join(f"{layer} ({count})" for layer, count in row.layers.items()),
        ]  # fmt: skip

    shown = rows_of(text, after="Differences</h3>")[1:]
    differences = [row for row in tables.differences if row.measure == measure]
    for line, row in zip(shown, differences, strict=True):
        assert [plain(cell) for cell in line] == [
            row.region, f"{row.model} minus {row.other}", f"{row.difference:.3f} [{row.low:.3f}, {row.high:.3f}]",
            "&lt; 0.0001" if row.p < 0.0001 else f"{row.p:.4f}", f"{row.t:.2f}", str(row.df), row.pairs,
        ]  # fmt: skip
        assert ("<b>" in line[3]) == (row.p < 0.05)


def test_equal_tables_give_equal_pages(tmp_path):
    small = made_up(models=MODELS[:2], layers=LAYERS, regions=["V1"])
    assert write(tmp_path / "one", small)[0] == write(tmp_path / "two", small)[0]


def test_text_from_outside_is_escaped(tmp_path):
    hostile = ["<b>&\"'", "</td><script>alert(1)</script>"]
    text, page = write(
        tmp_path, made_up(models=hostile, layers=["<i>"], regions=["<em>V1"], subjects=["<s>1", "<s>2"]), data="<nsd>"
    )
    for outside in ("<script", "<i>", "<em>", "<s>", "<u>", "<9>", "<nsd>"):
        assert outside not in text
        assert outside in page.text
    assert hostile[0] in page.text
    stands_alone(text, page)


def test_what_the_data_cannot_tell_is_a_dash(tmp_path):
    tables = made_up(models=MODELS[:2], layers=LAYERS, regions=["V1"], subjects=["s1", "s2"], ceilings=False)
    unknown = dict(t=None, p=None, low=float("nan"), high=float("nan"))
    text, page = write(tmp_path, tables._replace(differences=[row._replace(**unknown) for row in tables.differences]))
    assert page.text.count("The data give no ceiling.") == 2
    assert "Means over 2 subjects, too few for an interval." in page.text
    (line,) = rows_of(text, after="Differences</h3>")[1:]
    assert line[3:5] == ["–", "–"] and "nan" not in page.text.lower() and "None" not in page.text
    assert [row[-2] for row in rows_of(text, after="<details>")[1:]] == ["–", "–"]
    assert "ceiling" not in [row[0] for row in rows_of(text, after="Best layers</h3>")]


def test_one_model_alone_has_no_differences(tmp_path):
    _, page = write(tmp_path, made_up(models=["m"], layers=["fc7"], regions=["V1"], subjects=["s1"]))
    assert "1 model and the brain" in page.text and "Differences" not in page.text


def test_rows_that_are_left_out_are_counted(tmp_path, tables, monkeypatch):
    monkeypatch.setattr(brain_page, "MOST_ROWS", 5)
    monkeypatch.setattr(brain_page, "_figure", lambda *_: "")
    text, page = write(tmp_path, tables)
    assert "5 of 24 rows, the first are shown; scores.json has all." in page.text
    assert page.text.count("5 of 6 rows, those with the smallest p, are shown; scores.json has all.") == 2
    for measure in measures(tables):
        smallest = sorted(row.p for row in tables.differences if row.measure == measure)[:5]
        shown = rows_of(text[text.index(f"<h2>{measure}</h2>") :], after="Differences</h3>")[1:]
        assert [plain(row[3]) for row in shown] == ["&lt; 0.0001" if p < 0.0001 else f"{p:.4f}" for p in smallest]


def test_a_model_without_a_hash_is_refused(tmp_path, tables):
    with pytest.raises(InputError, match="'untrained' has scores but no sha256"):
        write(tmp_path, tables, models={name: "" for name in MODELS[:2]})
    assert not list(tmp_path.iterdir())
