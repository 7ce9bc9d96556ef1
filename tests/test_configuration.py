"""Settings from YAML files and the command line."""

import pytest
import yaml

from pathology.configuration import CONFIG_NAME, configured, merged, read_config, write_config
from pathology.errors import UsageError
from pathology.settings import QualitySettings, RunSettings, ScoreConfig, ScoreSettings

GIVEN = {"slides": ["a.svs"], "model": "some-model"}


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / CONFIG_NAME
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_what_is_written_is_read_again(tmp_path):
    config = ScoreConfig(
        slides=("s 1.svs", "α/🔬.svs", "no"),
        model="some-model",
        quality=QualitySettings(max_pen=1e-7),
        region={"results": "/r", "classes": ("viable: tumour",)},
        mpp=0.2527,
        workers=3,
    )
    write_config(tmp_path / CONFIG_NAME, config, "again")
    assert configured(ScoreConfig, {}, file=tmp_path / CONFIG_NAME) == config
    written = yaml.safe_load((tmp_path / CONFIG_NAME).read_text())
    assert list(written) == list(ScoreConfig.model_fields)
    assert written["tissue"]["mpp"] == 8.0


def test_the_two_halves_of_a_scoring_are_taken_apart_again():
    settings, run = ScoreSettings(stride=8, quality=QualitySettings()), RunSettings(workers=3, mpp=0.5)
    whole = ScoreConfig.model_validate({**GIVEN, **dict(settings), **dict(run)})
    assert (whole.scoring, whole.run) == (settings, run)
    assert whole.scoring.digest() == settings.digest()


def test_the_resume_key_knows_no_setting_of_the_run():
    assert not set(RunSettings.model_fields) & set(ScoreSettings.model_fields)
    # Of the settings as they were when results of this version were first written: another digest scores all again.
    assert ScoreSettings().digest() == "1a845bd4646a6b77"


def test_the_command_line_goes_before_the_file(file):
    path = file(
        "slides: [b.svs]\nmodel: other\nstride: 7\nquality: {max_pen: 0.1}\nregion: {results: r, classes: [a]}\n"
    )
    given = {"slides": ["a.svs"], "stride": 9, "quality": True, "region": {"classes": ["b"]}}
    config = configured(ScoreConfig, given, file=path)
    assert (config.slides, config.model, config.stride) == (("a.svs",), "other", 9)
    assert config.quality == QualitySettings(max_pen=0.1)  # asked for again, and the file says with which limits
    assert (config.region.results, config.region.classes) == ("r", ("b",))
    assert configured(ScoreConfig, {"quality": False}, file=path).quality is None


def test_merging_leaves_what_it_is_given_alone():
    first = {"a": {"b": 1}}
    assert merged(first, {"a": {"c": 2}, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert first == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "strde: 4",
            "strde: there is no such setting. Did you mean stride\\? There are: slides, model, tissue, .*stride",
        ),
        ("tissue: {mmp: 4}", "tissue.mmp: there is no such setting. Did you mean mpp\\? There are: mpp, most_pixels"),
        ("workers: '4'", "workers: .*valid integer, not '4'"),
        ("workers: yes", "workers: .*valid integer, not True"),
        ("stride: 1.5", "stride: .*integer"),
        ("mpp: -1", "mpp: .*greater than 0, not -1"),
        ("mpp: .inf", "mpp: .*finite"),
        ("mpp: .nan", "mpp: "),
        ("precision: sloppy", "precision: .*'fast' or 'exact', not 'sloppy'"),
        ("slides: 3", "slides: .*array, not 3"),
        ("slides: []", "slides: .*at least 1 item"),
        ("quality: {max_pen: 2}", "quality.max_pen: "),
        ("region: {results: r}", "region.classes is missing"),
        ("scheduler: tcp://a\nslurm: b.yaml", "cannot be combined"),
        ("- a list", "does not map settings to values"),
        ("just text", "does not map settings to values"),
        ("stride: [", "not valid YAML .line 2"),
        ("stride: 1\nstride: 2", "line 2: 'stride' is given twice"),
        ("1: a", "a name must be text"),
        ("? [a]\n: b", "not valid YAML"),
        ("model: !!python/object/apply:os.system [echo]", "not valid YAML"),
        (b"model: \xff\xfe", "not UTF-8"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_it(file, text, said):
    path = file(text)
    given = {name: value for name, value in GIVEN.items() if f"{name}:" not in str(text)}
    with pytest.raises(UsageError, match=said) as caught:
        configured(ScoreConfig, given, file=path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_what_is_wrong_on_the_command_line_names_the_option_and_no_file(file):
    with pytest.raises(UsageError, match=r"^--min-tissue: .* not 2"):
        configured(
            ScoreConfig, {**GIVEN, "min_tissue": 2}, file=file("stride: 4"), options={"min_tissue": "--min-tissue"}
        )
    with pytest.raises(UsageError, match=r"^strid: there is no such setting. Did you mean stride"):
        configured(ScoreConfig, {**GIVEN, "strid": 4})


BOMB = "a: &a [x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases"),
        ("a: &anchor 1", "aliases"),
        ("[" * 100_000, "nested more than"),
        ("a: " + "x" * (4 * 2**20), "larger than 4 MiB"),
    ],
)
def test_bombs_are_refused(file, text, said):
    with pytest.raises(UsageError, match=said):
        read_config(file(text))


def test_numbers_as_people_write_them(file):
    assert read_config(file("a: 1e-4\nb: 2E3\nc: 1e\n")) == {"a": 1e-4, "b": 2e3, "c": "1e"}
    assert read_config(file("")) == {}
    with pytest.raises(UsageError, match="file not found"):
        read_config(file("").with_name("gone.yaml"))
