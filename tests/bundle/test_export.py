"""Bundles out and in again: whole, checked, and from other people's names."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_file

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.export import export_bundle, import_bundle, map_names
from pathology.errors import BundleError, OutputError, UnsafeWeightsError, WeightsHashError


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def draft(tmp_path, pristine_bundle):
    """A card for weights that are yet to be imported."""
    fields = yaml.safe_load((pristine_bundle / "card.yaml").read_text("utf-8"))
    for name in ("weights_sha256", "parameters"):
        del fields[name]
    path = tmp_path / "draft.yaml"

    def write(**changes):
        path.write_text(yaml.safe_dump({**fields, "name": "imported", **changes}), encoding="utf-8")
        return path

    return write


class TestExport:
    def test_out_and_in_again(self, bundle_folder, models, tmp_path):
        (bundle_folder / "evaluation.json").write_text("{}")
        (bundle_folder / "private-notes.txt").write_text("")
        archive = export_bundle("little-model", tmp_path)
        assert archive == tmp_path / "little-model-1.0.0.zip"
        with zipfile.ZipFile(archive) as content:
            assert sorted(content.namelist()) == [
                f"little-model/{name}" for name in ("README.md", "card.yaml", "evaluation.json", "weights.safetensors")
            ]
            assert "Research use only" in content.read("little-model/README.md").decode()
        original = {name: data for name, data in files(bundle_folder).items() if name != "private-notes.txt"}
        shutil.rmtree(bundle_folder)
        bundle = import_bundle(archive)
        assert bundle.directory == models / "little-model"
        imported = files(bundle.directory)
        del imported["README.md"]
        assert imported == original

    def test_the_same_bundle_gives_the_same_bytes(self, bundle_folder, tmp_path):
        first = export_bundle("little-model", tmp_path / "a.zip").read_bytes()
        (bundle_folder / "card.yaml").touch()
        assert export_bundle("little-model", tmp_path / "b.zip").read_bytes() == first

    def test_a_broken_bundle_is_not_exported(self, bundle_folder, tmp_path):
        path = bundle_folder / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(WeightsHashError):
            export_bundle("little-model", tmp_path / "a.zip")
        assert not (tmp_path / "a.zip").exists()

    def test_where_nothing_can_be_written(self, bundle_folder, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError):
            export_bundle("little-model", tmp_path / "file" / "a.zip")


class TestImportBundle:
    def test_a_folder(self, pristine_bundle, models):
        bundle = import_bundle(pristine_bundle)
        assert bundle.directory == models / "little-model"
        assert files(bundle.directory) == files(pristine_bundle)

    def test_one_of_the_name_is_replaced_on_purpose_only(self, bundle_folder, models, tmp_path):
        archive = export_bundle("little-model", tmp_path)
        (bundle_folder / "card.yaml").write_text("spoilt")
        with pytest.raises(BundleError, match="'little-model' already exists"):
            import_bundle(archive)
        assert (bundle_folder / "card.yaml").read_text() == "spoilt"
        import_bundle(archive, replace=True)
        assert load_bundle("little-model").card.name == "little-model"
        assert [child.name for child in models.iterdir()] == ["little-model"]

    @pytest.mark.parametrize("changes", [{"weights_sha256": "0" * 64}, {"parameters": 7}, {"mpp": -1.0}])
    def test_what_does_not_verify_is_not_put_in_place(self, pristine_bundle, tmp_path, models, changes):
        source = shutil.copytree(pristine_bundle, tmp_path / "source")
        fields = yaml.safe_load((source / "card.yaml").read_text("utf-8"))
        (source / "card.yaml").write_text(yaml.safe_dump({**fields, **changes}), encoding="utf-8")
        with pytest.raises(BundleError):
            import_bundle(source)
        assert list(models.iterdir()) == []

    def test_an_archive_cannot_choose_where_it_is_unpacked(self, pristine_bundle, tmp_path, models):
        archive = tmp_path / "evil.zip"
        with zipfile.ZipFile(archive, "w") as content:
            for name in ("card.yaml", "weights.safetensors"):
                content.write(pristine_bundle / name, f"any/{name}")
            content.writestr("any/../../escaped.txt", "x")
            content.writestr("/absolute.txt", "x")
            content.writestr("any/run.sh", "x")
        bundle = import_bundle(archive)
        assert sorted(files(models)) == ["little-model/card.yaml", "little-model/weights.safetensors"]
        assert bundle.name == "little-model"
        assert not list(tmp_path.rglob("escaped.txt"))

    def test_an_archive_with_a_pickle(self, pristine_bundle, tmp_path, models):
        archive = tmp_path / "model.zip"
        with zipfile.ZipFile(archive, "w") as content:
            content.write(pristine_bundle / "card.yaml", "any/card.yaml")
            content.writestr("any/weights.pt", b"")
        with pytest.raises(UnsafeWeightsError):
            import_bundle(archive)
        assert list(models.iterdir()) == []

    def test_an_archive_without_card(self, tmp_path, models):
        archive = tmp_path / "model.zip"
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr("readme", b"")
        with pytest.raises(BundleError, match=r"exactly one card\.yaml"):
            import_bundle(archive)

    def test_a_damaged_archive(self, bundle_folder, tmp_path, models):
        archive = export_bundle("little-model", tmp_path)
        shutil.rmtree(bundle_folder)
        content = bytearray(archive.read_bytes())
        content[len(content) // 2] ^= 0xFF
        archive.write_bytes(content)
        with pytest.raises(BundleError):
            import_bundle(archive)
        assert list(models.iterdir()) == []

    def test_what_is_no_bundle(self, tmp_path, models):
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(BundleError, match="not a bundle zip file"):
            import_bundle(tmp_path / "notes.txt")
        with pytest.raises(BundleError, match="no such file"):
            import_bundle(tmp_path / "missing.zip")
        with pytest.raises(BundleError, match=r"no card\.yaml"):
            import_bundle(tmp_path / "models")

    def test_a_torchscript_program(self, tmp_path, models):
        path = tmp_path / "model.pt"
        with zipfile.ZipFile(path, "w") as content:
            content.writestr("model/code/__torch__.py", "")
        with pytest.raises(UnsafeWeightsError, match="TorchScript program is code"):
            import_bundle(path)

    def test_where_nothing_can_be_written(self, pristine_bundle, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError):
            import_bundle(pristine_bundle, folder=tmp_path / "file")


class TestImportWeights:
    def test_a_torchvision_state_dict(self, tmp_path, models, draft):
        torch.manual_seed(3)
        theirs = torchvision.models.densenet121(weights=None, num_classes=3).eval()
        save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
        bundle = import_bundle(tmp_path / "theirs.safetensors", card=draft())
        assert bundle.card.parameters == 6_956_931
        pixels = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(bundle.network()(pixels), theirs(pixels))

    def test_a_timm_checkpoint_with_a_mapping(self, tmp_path, models, draft):
        timm = pytest.importorskip("timm", reason="needs timm, which gives the checkpoint")
        torch.manual_seed(3)
        theirs = timm.create_model("densenet121", pretrained=False, num_classes=3).eval()
        state = {f"model.{name}": value for name, value in theirs.state_dict().items()}
        save_file({**state, "loss.weight": torch.ones(3)}, tmp_path / "theirs.safetensors")
        bundle = import_bundle(tmp_path / "theirs.safetensors", card=draft(), names={"model.": "", "loss.weight": None})
        pixels = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(bundle.network()(pixels), theirs(pixels))

    def test_the_names_of_the_first_torchvision_densenets_without_counters(self, tmp_path, models, draft):
        theirs = torchvision.models.densenet121(weights=None, num_classes=3).eval()
        old = {}
        for name, value in theirs.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                for part in ("norm1", "norm2", "conv1", "conv2"):
                    name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in name else name
                old[name] = value
        assert "features.denseblock1.denselayer1.norm.1.weight" in old
        save_file(old, tmp_path / "old.safetensors")
        bundle = import_bundle(tmp_path / "old.safetensors", card=draft())
        pixels = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(bundle.network()(pixels), theirs(pixels))

    def test_half_precision_stays_on_disk_and_widens_in_memory(self, tmp_path, models, draft):
        theirs = torchvision.models.densenet121(weights=None, num_classes=3).half()
        save_file(theirs.state_dict(), tmp_path / "half.safetensors")
        bundle = import_bundle(tmp_path / "half.safetensors", card=draft())
        assert bundle.weights.stat().st_size < 15_000_000
        assert next(bundle.network().parameters()).dtype == torch.float32

    def test_another_number_of_classes(self, tmp_path, models, draft):
        save_file(torchvision.models.densenet121(weights=None).state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(BundleError, match=r"classifier\.weight has shape \(1000, 1024\) instead of \(3, 1024\)"):
            import_bundle(tmp_path / "w.safetensors", card=draft())
        assert list(models.iterdir()) == []

    def test_a_card_that_lacks_a_field(self, tmp_path, models, draft):
        save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
        with pytest.raises(BundleError, match="limits"):
            import_bundle(tmp_path / "w.safetensors", card=draft(limits=[]))

    def test_weights_that_are_not_the_cards(self, tmp_path, models, draft):
        save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
        with pytest.raises(WeightsHashError):
            import_bundle(tmp_path / "w.safetensors", card=draft(weights_sha256="0" * 64))

    def test_weights_without_card(self, tmp_path, models):
        save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
        with pytest.raises(BundleError, match="weights without a card are not a model"):
            import_bundle(tmp_path / "w.safetensors")

    def test_a_card_beside_a_bundle(self, pristine_bundle, models, draft):
        with pytest.raises(BundleError, match=r"to \.safetensors files only"):
            import_bundle(pristine_bundle, card=draft())


STATE = {"model.a.weight": torch.ones(1), "model.b.weight": torch.ones(2)}


class TestNames:
    def test_the_longest_beginning_wins(self):
        mapped = map_names(STATE, {"model.": "", "model.b.": "c."})
        assert {name: len(tensor) for name, tensor in mapped.items()} == {"a.weight": 1, "c.weight": 2}

    def test_a_whole_name_and_leaving_out(self):
        assert set(map_names(STATE, {"model.a.weight": "x", "model.b.": None})) == {"x"}

    def test_without_a_mapping_names_stay(self):
        assert set(map_names(STATE, {})) == set(STATE)

    def test_a_beginning_must_end_in_a_dot(self):
        with pytest.raises(BundleError, match="'model', which matches no tensor"):
            map_names(STATE, {"model": ""})

    def test_two_tensors_of_one_name(self):
        with pytest.raises(BundleError, match="two tensors map to the name x"):
            map_names(STATE, {"model.a.weight": "x", "model.b.weight": "x"})


def test_a_zip_file_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("little/card.yaml", "name: little")
        archive.writestr("little/weights.safetensors", bytes(50 * 2**20))
    with pytest.raises(BundleError, match="would unpack to 50 MiB"):
        import_bundle(tmp_path / "bomb.zip", folder=tmp_path / "models")
    assert not list(tmp_path.rglob("*.safetensors"))
