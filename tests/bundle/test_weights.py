"""Weights on disk: refused when unsafe, changed or ill-fitting; fp32 in memory."""

import hashlib
import os
import stat
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pathology.bundle.weights import (
    check_weights,
    file_sha256,
    load_weights,
    read_state_dict,
    refuse_unsafe,
    weights_path,
    write_state_dict,
)
from pathology.errors import BundleError, OutputError, UnsafeWeightsError, WeightsHashError


def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


@given(content=st.binary(max_size=3000))
def test_hash_equals_hashlibs(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_file_longer_than_one_piece_is_hashed_whole(tmp_path):
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("half", [True, False])
def test_written_weights_come_back_as_fp32(tmp_path, half):
    state = {**linear().state_dict(), "counter": torch.tensor(7)}
    path = tmp_path / "weights.safetensors"
    sha256 = write_state_dict(state, path, half=half)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    back = read_state_dict(path)
    assert back["weight"].dtype == torch.float32
    assert back["counter"].dtype == torch.int64
    expected = state["weight"].half().float() if half else state["weight"]
    assert torch.equal(back["weight"], expected)
    check_weights(path, sha256)


def test_written_weights_are_readable_as_any_new_file(tmp_path):
    write_state_dict(linear().state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "other").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "weights.safetensors").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "other").stat().st_mode
    )


def test_a_weight_too_large_for_fp16_is_refused_and_nothing_written(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(OutputError, match="outside the range of fp16"):
        write_state_dict({"weight": torch.tensor([1e6])}, path)
    assert list(tmp_path.iterdir()) == []


def test_one_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "weights.safetensors"
    sha256 = write_state_dict(linear().state_dict(), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsHashError, match="not those the card was written for"):
        check_weights(path, sha256)


def test_truncated_weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_state_dict(linear().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BundleError, match="damaged or no safetensors file"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["model.pt", "model.PTH", "model.pkl", "pytorch_model.bin", "last.ckpt"])
def test_pickles_are_refused_unopened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04 whatever")
    with pytest.raises(UnsafeWeightsError, match=r"pickle.*safetensors\.torch\.save_file") as caught:
        read_state_dict(path)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_keras_files_are_refused(tmp_path, name):
    with pytest.raises(UnsafeWeightsError, match="Keras"):
        refuse_unsafe(tmp_path / name)


def test_a_torchscript_program_is_told_apart_from_a_checkpoint(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/code/__torch__.py", "op_version_set = 1")
        archive.writestr("model/data.pkl", b"")
    with pytest.raises(UnsafeWeightsError, match="TorchScript program"):
        refuse_unsafe(path)
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save(linear().state_dict(), checkpoint)
    with pytest.raises(UnsafeWeightsError, match="pickle"):
        refuse_unsafe(checkpoint)


def test_a_bundle_with_a_pickle_instead_of_weights(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(UnsafeWeightsError):
        weights_path(tmp_path)


def test_a_bundle_without_weights(tmp_path):
    with pytest.raises(BundleError, match=r"no weights\.safetensors"):
        weights_path(tmp_path)


class TestFit:
    def test_weights_are_assigned_to_a_network_without_memory(self):
        with torch.device("meta"):
            network = torch.nn.Linear(3, 2)
        state = linear().state_dict()
        load_weights(network, state)
        assert torch.equal(network.weight, state["weight"])
        assert not network.weight.is_meta

    def test_missing(self):
        with pytest.raises(BundleError, match=r"do not match the network: bias is missing"):
            load_weights(linear(), {"weight": torch.zeros(2, 3)})

    def test_superfluous(self):
        with pytest.raises(BundleError, match="extra is not part of it"):
            load_weights(linear(), {**linear().state_dict(), "extra": torch.zeros(1)})

    def test_shape(self):
        state = {**linear().state_dict(), "weight": torch.zeros(5, 3)}
        with pytest.raises(BundleError, match=r"weight has shape \(5, 3\) instead of \(2, 3\)"):
            load_weights(linear(), state)

    def test_all_problems_are_counted(self):
        with pytest.raises(BundleError, match=r"weight is missing \(and 2 more\)"):
            load_weights(linear(), {"other": torch.zeros(1)})
