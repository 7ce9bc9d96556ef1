"""Bundles by name: found, refused with the reason, listed, verified."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pathology import settings
from pathology.bundle import catalogue
from pathology.bundle.catalogue import list_bundles, load_bundle, search_path, user_folder
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import file_sha256
from pathology.errors import (
    BundleError,
    UnknownArchitectureError,
    UnknownModelError,
    UnsafeWeightsError,
    WeightsHashError,
)
from pathology.testing.random_bundle import write_random_bundle


def change_card(folder: Path, **changes):
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text("utf-8")), **changes}), encoding="utf-8")


class TestSearchPath:
    def test_the_users_folders_come_first_in_their_order(self, monkeypatch, tmp_path):
        first, second = tmp_path / "a", tmp_path / "b"
        monkeypatch.setenv("PATHOLOGY_MODELS", f"{first}{catalogue.os.pathsep}{second}")
        assert search_path()[:2] == (first, second)
        assert user_folder() == first

    @pytest.mark.parametrize(
        ("platform", "variable", "expected"),
        [
            ("linux", "XDG_DATA_HOME", "sarcoma-pathology/models"),
            ("win32", "LOCALAPPDATA", "sarcoma-pathology/models"),
        ],
    )
    def test_the_platforms_place(self, monkeypatch, tmp_path, platform, variable, expected):
        monkeypatch.delenv("PATHOLOGY_MODELS", raising=False)
        monkeypatch.setattr(settings.sys, "platform", platform)
        monkeypatch.setenv(variable, str(tmp_path))
        assert user_folder() == tmp_path / expected

    def test_the_platforms_place_without_its_variable(self, monkeypatch, tmp_path):
        for variable in ("PATHOLOGY_MODELS", "XDG_DATA_HOME"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(settings.sys, "platform", "darwin")
        assert user_folder() == tmp_path / "Library" / "Application Support" / "sarcoma-pathology" / "models"
        monkeypatch.setattr(settings.sys, "platform", "linux")
        assert user_folder() == tmp_path / ".local" / "share" / "sarcoma-pathology" / "models"

    def test_the_shipped_models_are_on_it(self):
        assert Path(catalogue.__file__).resolve().parents[2] / "models" in search_path()


class TestLoad:
    def test_by_name(self, bundle_folder):
        bundle = load_bundle("little-model")
        assert bundle.directory == bundle_folder
        assert bundle.name == bundle.card.name == "little-model"

    def test_by_folder(self, bundle_folder, tmp_path, monkeypatch):
        elsewhere = shutil.copytree(bundle_folder, tmp_path / "elsewhere" / "little-model")
        assert load_bundle(elsewhere).directory == elsewhere
        assert load_bundle(str(elsewhere)).directory == elsewhere
        assert load_bundle(elsewhere / "card.yaml").directory == elsewhere
        monkeypatch.chdir(elsewhere.parent)
        assert load_bundle("./little-model").directory == elsewhere

    def test_a_bare_name_is_looked_up_before_a_folder_here(self, bundle_folder, tmp_path, monkeypatch):
        (tmp_path / "here" / "little-model").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here")
        assert load_bundle("little-model").directory == bundle_folder

    def test_the_network_is_the_one_that_was_saved(self, bundle_folder):
        from safetensors.torch import load_file

        network = load_bundle(bundle_folder).network()
        assert not network.training
        stored = load_file(bundle_folder / "weights.safetensors")
        state = network.state_dict()
        assert state.keys() == stored.keys()
        assert all(torch.equal(state[name], stored[name]) for name in stored)
        assert not any(parameter.is_meta for parameter in network.parameters())
        with torch.inference_mode():
            assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)

    def test_it_travels_to_another_process(self, bundle_folder):
        bundle = load_bundle(bundle_folder)
        assert pickle.loads(pickle.dumps(bundle)) == bundle

    def test_neither_loading_nor_listing_imports_torch(self, bundle_folder):
        code = (
            "import sys; from pathology.bundle.catalogue import load_bundle, list_bundles;"
            f"load_bundle({str(bundle_folder)!r}); list_bundles(); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"

    def test_unknown_name(self, bundle_folder):
        with pytest.raises(
            UnknownModelError, match=r"'litle-model'.*little-model.*closest name is little-model"
        ) as caught:
            load_bundle("litle-model")
        assert caught.value.exit_status == 2
        assert "\n" not in str(caught.value)

    def test_unknown_name_unlike_any(self, bundle_folder):
        with pytest.raises(UnknownModelError, match=r"little-model.*pathology models list"):
            load_bundle("zzz")

    def test_unknown_name_where_there_is_none(self, models, monkeypatch):
        monkeypatch.setattr(catalogue, "search_path", lambda: (models,))
        with pytest.raises(UnknownModelError, match="no models were found in"):
            load_bundle("anything")

    def test_a_broken_bundle_is_not_offered(self, bundle_folder, models):
        write_random_bundle(models / "other", patch=32)
        change_card(models / "other", mpp="wide")
        with pytest.raises(UnknownModelError) as caught:
            load_bundle("something")
        assert "other" not in caught.value.what

    def test_changed_weights(self, bundle_folder):
        path = bundle_folder / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        with pytest.raises(WeightsHashError) as caught:
            load_bundle("little-model")
        assert caught.value.where == str(path)
        assert caught.value.exit_status == 2

    def test_weights_changed_after_loading(self, bundle_folder):
        bundle = load_bundle("little-model")
        path = bundle_folder / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
        with pytest.raises(WeightsHashError):
            bundle.network()

    @pytest.mark.parametrize("exists", [True, False])
    def test_a_pickle_instead_of_a_bundle(self, tmp_path, exists):
        path = tmp_path / "model.pt"
        if exists:
            path.write_bytes(b"\x80\x04.")
        with pytest.raises(UnsafeWeightsError, match="safetensors"):
            load_bundle(str(path))

    def test_a_bundle_whose_weights_are_a_pickle(self, bundle_folder):
        (bundle_folder / "weights.safetensors").rename(bundle_folder / "weights.pth")
        with pytest.raises(UnsafeWeightsError):
            load_bundle("little-model")

    def test_a_file_that_is_no_bundle(self, tmp_path):
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(BundleError, match="a model is a folder"):
            load_bundle(tmp_path / "notes.txt")

    def test_a_folder_without_card(self, tmp_path):
        with pytest.raises(BundleError, match=r"no card\.yaml"):
            load_bundle(tmp_path)

    def test_unknown_architecture(self, bundle_folder):
        change_card(bundle_folder, architecture="resnet999")
        with pytest.raises(UnknownArchitectureError, match=r"'resnet999'; available: .*densenet121"):
            load_bundle("little-model")

    def test_options_the_architecture_does_not_have(self, bundle_folder):
        change_card(bundle_folder, architecture_options={"depth": 7})
        with pytest.raises(BundleError, match="architecture_options: densenet121 cannot be built"):
            load_bundle("little-model").network()

    def test_weights_of_another_network(self, bundle_folder):
        change_card(bundle_folder, architecture="densenet121-foersch")
        with pytest.raises(BundleError, match="do not match the network"):
            load_bundle("little-model").network()


class TestList:
    def test_broken_bundles_are_listed_with_their_error(self, bundle_folder, models):
        for name, changes in (("bad-field", {"mpp": -1.0}), ("bad-network", {"architecture": "resnet999"})):
            shutil.copytree(bundle_folder, models / name)
            change_card(models / name, **changes)
        (models / "no-card").mkdir()
        shutil.copytree(bundle_folder, models / "no-weights")
        (models / "no-weights" / "weights.safetensors").unlink()
        (models / ".half-imported").mkdir()
        (models / "stray.txt").write_text("")
        listed = {entry.name: entry for entry in list_bundles() if entry.directory.parent == models}
        assert set(listed) == {"bad-field", "bad-network", "little-model", "no-card", "no-weights"}
        assert listed["little-model"].error is None
        assert listed["little-model"].card.patch == 32
        for name, message in (
            ("bad-field", "mpp"),
            ("bad-network", "resnet999"),
            ("no-card", "no card"),
            ("no-weights", "no weights"),
        ):
            assert listed[name].card is None
            assert message in str(listed[name].error)

    def test_a_hidden_bundle_says_by_which(self, monkeypatch, tmp_path, bundle_folder, models):
        second = tmp_path / "second"
        shutil.copytree(bundle_folder, second / "little-model")
        monkeypatch.setattr(catalogue, "search_path", lambda: (models, second, tmp_path / "missing"))
        first, hidden = list_bundles()
        assert (first.directory, first.hidden_by) == (bundle_folder, None)
        assert (hidden.directory, hidden.hidden_by) == (second / "little-model", bundle_folder)


class TestVerify:
    def test_a_whole_bundle(self, bundle_folder):
        checks = verify_bundle("little-model")
        assert [check.error for check in checks] == [None] * 9
        assert any("6,956,931" in check.found for check in checks)

    @pytest.mark.parametrize(
        ("changes", "message", "passed"),
        [
            ({"split": None}, "split", 0),
            ({"name": "other-name"}, "the card says 'other-name', the folder is called 'little-model'", 1),
            ({"weights_sha256": "0" * 64}, "not those the card was written for", 2),
            ({"classes": ["a", "b"]}, "do not match the network: classifier.weight", 3),
            ({"parameters": 7}, "the card says 7, the network has 6,956,931", 4),
        ],
    )
    def test_the_first_failure_ends_it(self, bundle_folder, changes, message, passed):
        change_card(bundle_folder, **changes)
        checks = verify_bundle(bundle_folder)
        assert [check.error is None for check in checks] == [True] * passed + [False]
        assert message in str(checks[-1].error)

    def test_weights_that_give_no_number(self, bundle_folder):
        from safetensors.torch import load_file, save_file

        path = bundle_folder / "weights.safetensors"
        state = load_file(path)
        state["classifier.bias"][0] = float("nan")
        save_file(state, path)
        change_card(bundle_folder, weights_sha256=file_sha256(path))
        assert "non-finite output" in str(verify_bundle(bundle_folder)[-1].error)

    def test_no_such_bundle(self, models):
        with pytest.raises(UnknownModelError):
            verify_bundle("zzz")
