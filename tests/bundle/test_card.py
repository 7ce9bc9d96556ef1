"""Cards: what is wrong is named by field; what is written comes back."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pathology.bundle.card import Card, read_card, write_card
from pathology.bundle.card_page import card_markdown
from pathology.errors import BundleError, OutputError


@pytest.fixture(scope="session")
def fields(pristine_bundle):
    return yaml.safe_load((pristine_bundle / "card.yaml").read_text(encoding="utf-8"))


REQUIRED = [name for name, field in Card.model_fields.items() if field.is_required()]


@pytest.mark.parametrize("name", REQUIRED)
def test_each_missing_field_is_named(tmp_path, fields, name):
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in fields.items() if k != name}), encoding="utf-8")
    with pytest.raises(BundleError, match=rf"{name}: Field required") as caught:
        read_card(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "Has Spaces"),
        ("version", "1"),
        ("task", "guessing"),
        ("parameters", 0),
        ("classes", []),
        ("mpp", -1.0),
        ("patch", 3),
        ("weights_sha256", "abc"),
        ("colours", ["red"]),
        ("training_data", []),
        ("metrics", []),
        ("limits", []),
        ("stain", "sepia"),
        ("surprise", 1),
    ],
)
def test_each_wrong_field_is_named(tmp_path, fields, name, value):
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump({**fields, name: value}), encoding="utf-8")
    with pytest.raises(BundleError, match=rf": {name}"):
        read_card(path)


def test_a_figure_without_interval_is_refused_by_its_place(tmp_path, fields):
    figure = {
        "metric": "accuracy",
        "value": 0.9,
        "interval": None,
        "method": "Wilson",
        "n": 5,
        "unit": "tiles",
        "data": "d",
    }
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump({**fields, "metrics": [figure]}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"metrics\.0.*a value and its interval come together"):
        read_card(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"", "empty"),
        (b"- 1\n", "not a mapping of fields"),
    ],
)
def test_what_is_no_card(tmp_path, content, message):
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=message):
        read_card(path)


def test_no_card(tmp_path):
    with pytest.raises(BundleError, match=r"no card\.yaml"):
        read_card(tmp_path / "card.yaml")


def test_a_card_cannot_run_code(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']\n", encoding="utf-8")
    with pytest.raises(BundleError, match="not valid YAML"):
        read_card(path)


def test_a_written_card_comes_back_equal(tmp_path, fields):
    card = Card.model_validate({**fields, "title": "Größe in µm: „x“ | y", "calibration": {"temperature": 1.25}})
    write_card(card, tmp_path / "new" / "card.yaml")
    assert read_card(tmp_path / "new" / "card.yaml") == card
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["card.yaml"]


def test_a_card_that_cannot_be_written(tmp_path, fields):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_card(Card.model_validate(fields), tmp_path / "file" / "card.yaml")


class TestPage:
    def test_every_statement_of_the_card_is_on_the_page(self, fields):
        card = Card.model_validate(
            {
                **fields,
                "limits": ["knows nothing of glass"],
                "reference": "Somebody 2020",
                "abstention": {"method": "split conformal", "min_probability": 0.6, "parameters": {"alpha": 0.1}},
                "calibration": {"temperature": 1.25},
                "architecture_options": {"dropout": 0.1},
            }
        )
        page = card_markdown(card)
        for text in (
            "Research use only",
            card.name,
            card.version,
            card.weights_sha256,
            *card.classes,
            card.intended_use,
            card.split,
            card.initialisation,
            card.licence,
            "knows nothing of glass",
            "Somebody 2020",
            "split conformal",
            "below a probability of 0.6",
            "alpha = 0.1",
            "temperature = 1.25",
            "dropout = 0.1",
            *(data.name for data in card.training_data),
            *(data.licence for data in card.training_data),
            *(figure.metric for figure in card.metrics),
        ):
            assert text in page

    @given(note=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=40))
    def test_no_text_breaks_the_table_of_figures(self, fields, note):
        figure = {"metric": "m", "value": 0.5, "interval": [0.4, 0.6], "method": "Wilson", "n": 3, "unit": "tiles"}
        card = Card.model_validate({**fields, "metrics": [{**figure, "data": "d", "note": f"{note}|\n"}]})
        row = card_markdown(card).split("\n")[-2]
        assert row.replace("\\|", "").count("|") == 7
        assert "0.4 to 0.6 (95 %, Wilson)" in row

    def test_a_figure_that_cannot_be_estimated_says_so(self, fields):
        figure = {"metric": "m", "value": None, "interval": None, "method": "none", "n": 0, "unit": "tiles"}
        card = Card.model_validate({**fields, "metrics": [{**figure, "data": "d", "note": "three cases"}]})
        assert "| m | not estimable | none | 0 tiles | d | three cases |" in card_markdown(card)
