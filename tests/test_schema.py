"""Schemas from TOML, and a whole run on another table than red wine."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sklearn.datasets import load_breast_cancer

from wine_drift.cli import main
from wine_drift.dataset import packaged_text
from wine_drift.schema import SCORE, Schema, parse_schema


def table(**changes: Any) -> dict[str, Any]:
    """Return the content of a valid schema file, with changes."""
    valid = {
        "name": "t",
        "target": {"column": "y", "positive": "> 0.5"},
        "feature": [{"name": "x"}],
    }
    return {key: value for key, value in (valid | changes).items() if value is not None}


def mistakes(content: dict[str, Any]) -> list[str]:
    """Return the lines of the error for this content."""
    with pytest.raises(ValueError) as caught:
        parse_schema(content)
    return str(caught.value).splitlines()


def test_red_wine_loads(red_wine_csv: Path) -> None:
    """The packaged schema names the columns of the published table, in its order."""
    schema = parse_schema(tomllib.loads(packaged_text("red_wine.toml")))
    header = red_wine_csv.read_text().splitlines()[0].replace('"', "").split(";")
    assert [*schema.feature_names, schema.target] == header
    assert (schema.name, schema.row, schema.positive) == ("red wine", "wine", "> 6.5")
    assert schema.reject_duplicates
    assert schema.columns == (*schema.feature_names, SCORE)
    assert all(math.isfinite(f.minimum) and math.isfinite(f.maximum) for f in schema.features)


def test_no_published_wine_is_out_of_range(red_wine_csv: Path, white_wine_csv: Path) -> None:
    """The plausible ranges hold every red and white wine that was published."""
    schema = parse_schema(tomllib.loads(packaged_text("red_wine.toml")))
    for path in (red_wine_csv, white_wine_csv):
        frame = pd.read_csv(path, sep=";")
        for feature in schema.features:
            assert frame[feature.name].between(feature.minimum, feature.maximum).all(), feature
        assert frame["quality"].between(schema.target_minimum, schema.target_maximum).all()


def test_defaults() -> None:
    """Ranges default to unbounded, units to none, rows to "row", and duplicates are kept."""
    schema = parse_schema(table())
    (feature,) = schema.features
    assert (feature.unit, feature.minimum, feature.maximum) == ("", -math.inf, math.inf)
    assert (schema.row, schema.reject_duplicates) == ("row", False)
    assert (schema.target_minimum, schema.target_maximum) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("rule", "positive"),
    [
        ("> 1", [False, False, True, False]),
        (">= 1", [False, True, True, False]),
        ("< 1", [True, False, False, False]),
        ("<= 1", [True, True, False, False]),
        ("== 1", [False, True, False, False]),
        ("  >=   1.0e0 ", [False, True, True, False]),
        ("> -1", [True, True, True, False]),
    ],
)
def test_rules(rule: str, positive: list[bool]) -> None:
    """Each comparison means what it says, and a missing answer is never positive."""
    schema = parse_schema(table(target={"column": "y", "positive": rule}))
    assert schema.is_positive(np.array([0.0, 1.0, 2.0, np.nan])).tolist() == positive


@pytest.mark.parametrize("rule", ["== yes", '== "yes"', '  =="yes" ', "==   yes "])
def test_rules_on_texts(rule: str) -> None:
    """The text that is asked for is positive, in quotes or without; another one is not."""
    target = {"column": "y", "positive": rule, "categories": ["maybe", "no", "yes"]}
    schema = parse_schema(table(target=target))
    assert schema.positive == '== "yes"'
    assert schema.is_positive(np.array([0.0, 1.0, 2.0, np.nan])).tolist() == [0, 0, 1, 0]


def test_rule_is_told_as_the_texts_are_listed() -> None:
    """However the rule writes a truth, the question is the same."""
    for rule in ("== true", "== 1", "== True"):
        target = {"column": "y", "positive": rule, "categories": ["False", "True"]}
        assert parse_schema(table(target=target)).positive == '== "True"'


@pytest.mark.parametrize("categories", ["no", [], ["no", ""], ["no", 1], {"no": 1}], ids=repr)
def test_categories_are_a_list_of_texts(categories: object) -> None:
    """Anything else is told."""
    target = {"column": "y", "positive": "== no", "categories": categories}
    told = mistakes(table(target=target))
    assert told[0] == 'target.categories: not a list of texts such as ["no", "yes"]'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(table(name=None), "name: is missing", id="no name"),
        pytest.param(table(name=" "), "name: ' ' is not a text", id="blank name"),
        pytest.param(table(colour=1), "colour: unknown key", id="unknown key"),
        pytest.param(table(duplicates="drop"), "duplicates: 'drop' is neither", id="duplicates"),
        pytest.param(table(feature=[]), "feature: at least one", id="no features"),
        pytest.param(table(feature={"name": "x"}), "feature: at least one", id="not a list"),
        pytest.param(
            table(feature=[{"name": "x"}, {"name": "x"}]), "feature: 'x' is there twice", id="twice"
        ),
        pytest.param(table(feature=[{"name": "y"}]), "feature: 'y' is also the target", id="leak"),
        pytest.param(table(feature=[{"name": SCORE}]), f"feature: the name {SCORE!r}", id="score"),
        pytest.param(
            table(feature=[{"name": "x", "minimum": 2, "maximum": 2}]),
            "feature 1: minimum is not below maximum",
            id="empty range",
        ),
        pytest.param(
            table(feature=[{"name": "x", "maximum": "9"}]),
            "feature 1.maximum: '9' is not a number",
            id="number as text",
        ),
        pytest.param(
            table(feature=[{"name": "x", "minimum": math.nan}]),
            "feature 1.minimum: nan is not a number",
            id="nan",
        ),
        pytest.param(
            table(feature=[{"name": "x", "minimum": True}]),
            "feature 1.minimum: True is not a number",
            id="truth",
        ),
        pytest.param(
            table(feature=[{"name": "x", "maximum": 10**400}]),
            "feature 1.maximum: ",
            id="huge number",
        ),
        pytest.param(
            table(feature=[{"name": "x", "max": 9}]), "feature 1.max: unknown key", id="feature key"
        ),
        pytest.param(
            table(target={"column": "y", "positive": "> 1", "unit": "kg"}),
            "target.unit: unknown key",
            id="target key",
        ),
        pytest.param(
            table(target={"column": "y", "positive": "big"}), "target.positive: 'big'", id="rule"
        ),
        pytest.param(
            table(target={"column": "y", "positive": "> nan"}), "target.positive: ", id="rule nan"
        ),
        pytest.param(
            table(target={"column": "y", "positive": "== yes"}),
            "target.positive: '== yes' asks for a text; list the texts",
            id="rule on texts that are not listed",
        ),
        pytest.param(
            table(target={"column": "y", "positive": "== yes", "categories": ["no", "ja"]}),
            "target.positive: '== yes' asks for none of target.categories",
            id="rule on a text that is not listed",
        ),
        pytest.param(
            table(target={"column": "y", "positive": "> 1", "categories": ["1", "2"]}),
            "target.positive: '> 1' asks for none of target.categories",
            id="comparison of texts",
        ),
        pytest.param(
            table(target={"column": "y", "positive": "== 1", "categories": ["1"], "minimum": 0}),
            "target.minimum: categories have none",
            id="texts with a range",
        ),
        pytest.param(
            table(target={"column": "y", "positive": "== 1", "categories": ["1", "true"]}),
            "target.categories: 'true' is there already",
            id="texts that are the same",
        ),
        pytest.param(
            table(target={"column": "y", "positive": "== 1", "categories": ["1", "(other)"]}),
            "target.categories: '(other)' is there already",
            id="text that is taken",
        ),
    ],
)
def test_mistake(content: dict[str, Any], told: str) -> None:
    """Each mistake alone is one line that begins with its place."""
    (line,) = mistakes(content)
    assert line.startswith(told)


def test_all_mistakes_at_once() -> None:
    """One line for every mistake of the file."""
    told = mistakes(
        {
            "row": 5,
            "colour": "red",
            "duplicates": "drop",
            "target": {"column": "y", "positive": "y > 6"},
            "feature": [{"name": "x", "minimum": 3, "maximum": 1}, {"unit": "g"}, "x"],
        }
    )
    places = ["name", "row", "colour", "duplicates", "target.positive", "feature 1"]
    places += ["feature 2.name", "feature 3"]
    for place in places:
        assert any(line.startswith(f"{place}: ") for line in told), place


@pytest.mark.parametrize(
    "content", [{}, {"target": 5, "feature": 5}, {"feature": [1, [], "x"]}], ids=str
)
def test_nothing_but_value_error(content: dict[str, Any]) -> None:
    """Whatever the file holds, it is a ValueError with lines."""
    assert mistakes(content)


# --- another table, from the command line ---


def command(*arguments: str | Path, code: int = 0) -> Result:
    """Run wine-drift in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def cancer() -> pd.DataFrame:
    """The breast-cancer table that ships inside scikit-learn, shuffled."""
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.assign(malignant=1 - bunch.target)
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.fixture(scope="module")
def cancer_toml(cancer: pd.DataFrame) -> str:
    """The schema of that table as a person would write it."""
    features = "".join(
        f'\n[[feature]]\nname = "{name}"\nunit = "µm"\nminimum = 0\n'
        for name in cancer.columns.drop("malignant")
    )
    target = '\n[target]\ncolumn = "malignant"\npositive = "== 1"\nminimum = 0\nmaximum = 1\n'
    return f'name = "breast cancer"\nrow = "tumour"\n{target}{features}'


def test_whole_run_on_breast_cancer(cancer: pd.DataFrame, cancer_toml: str) -> None:
    """Train on one part, then a batch file and a stream of the rest are scored well."""
    Path("bc.toml").write_text(cancer_toml, encoding="utf-8")
    cancer[:300].to_csv("bc.csv", index=False)
    cancer[300:420].to_csv("batch.csv", index=False)
    cancer[420:].to_csv("rest.csv", index=False)
    where = ("--schema", "bc.toml", "--home", "home")

    assert "champion v1-" in command("train", "--data", "bc.csv", *where).output
    told = json.loads(command("run-batch", "batch.csv", "--json", *where).stdout)
    assert (told["outcome"], told["batch"]["rows"], told["batch"]["labelled"]) == (
        "processed",
        120,
        120,
    )
    assert told["quality"]["roc_auc"] > 0.95
    assert len(told["drift"]["features"]) == 31

    stream = ("run-batch", "--data", "rest.csv", "--batch-rows", "80", "--json", *where)
    for rows in (80, 69):
        told = json.loads(command(*stream).stdout)
        assert (told["batch"]["source"], told["batch"]["rows"]) == ("stream", rows)
        assert told["quality"]["roc_auc"] > 0.95
    assert json.loads(command(*stream).stdout)["outcome"] == "end_of_stream"
    assert "batch.csv" in command("status", "--home", "home").output


def test_first_run_on_breast_cancer_trains_by_itself(
    cancer: pd.DataFrame, cancer_toml: str
) -> None:
    """Without a champion, a run trains on the first part of the table and streams the rest."""
    Path("bc.toml").write_text(cancer_toml, encoding="utf-8")
    cancer.to_csv("bc.csv", index=False, sep=";")
    run = ("run-batch", "--data", "bc.csv", "--schema", "bc.toml", "--home", "home", "--json")
    told = json.loads(command(*run).stdout)
    assert told["batch"]["source"] == "stream"
    assert told["quality"]["roc_auc"] > 0.95


def test_schema_without_a_table_is_not_given_red_wine(cancer_toml: str) -> None:
    """With another schema and no table, nothing is simulated in its place."""
    Path("bc.toml").write_text(cancer_toml, encoding="utf-8")
    result = command("run-batch", "--schema", "bc.toml", "--home", "home", code=2)
    assert "--data" in result.output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "No such file", id="missing"),
        pytest.param(b"name = ", "not a TOML file", id="syntax"),
        pytest.param(b'name = "\xff"', "not a TOML file", id="not UTF-8"),
        pytest.param(b'name = "x"', "target: is missing", id="incomplete"),
    ],
)
def test_schema_file_that_cannot_be_used(content: bytes | None, told: str) -> None:
    """A bad schema file is a settings error that names the file on every line."""
    if content is not None:
        Path("bad.toml").write_bytes(content)
    result = command("run-batch", "--schema", "bad.toml", "--home", "home", code=2)
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert lines
    assert all(line.startswith("error: schema bad.toml: ") for line in lines)
    assert told in result.output


def test_home_keeps_to_its_schema(cancer: pd.DataFrame, cancer_toml: str) -> None:
    """A champion is not given rows of another schema."""
    Path("bc.toml").write_text(cancer_toml, encoding="utf-8")
    cancer.to_csv("bc.csv", index=False)
    home = ("--home", "home", "--data", "bc.csv")
    command("train", *home, "--schema", "bc.toml", "--rounds", "5")
    fewer = cancer_toml.replace('[[feature]]\nname = "mean radius"\nunit = "µm"\nminimum = 0\n', "")
    assert isinstance(parse_schema(tomllib.loads(fewer)), Schema)
    Path("fewer.toml").write_text(fewer, encoding="utf-8")
    result = command("run-batch", "bc.csv", *home, "--schema", "fewer.toml", code=2)
    assert "the schema is another" in result.output


def test_spaces_in_the_rule_make_no_other_question() -> None:
    """`>6.5` and ` >  6.5 ` are the same schema."""
    rules = [
        {"column": "y", "positive": rule, "minimum": 0} for rule in (">6.5", " >  6.5 ", "> 6.5")
    ]
    schemas = [parse_schema({"name": "t", "target": t, "feature": [{"name": "x"}]}) for t in rules]
    assert schemas[0] == schemas[1] == schemas[2]
