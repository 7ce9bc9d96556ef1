"""Trainings of radiology networks: killed and repeated, they end as if left alone."""

import pytest
import torch
from torch import nn

from pathology.radiology.models.training_loop import OptimiserSettings, fit, keeping_states, seeded

SETTINGS = OptimiserSettings(steps=30, batch=4)
POINTS = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Killed(Exception):
    pass


def train(kill_at=None, contents="points", steps=None):
    def network():
        body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        return nn.Sequential(body, nn.Flatten(), nn.Linear(8 * 36, 2))

    def draw(generator):
        rows = torch.randint(20, (SETTINGS.batch,), generator=generator)
        return POINTS[rows], (POINTS[rows].mean(dim=(1, 2, 3)) > 0).long()

    def progress(done, _):
        if steps is not None:
            steps.append(done)
        if done == kill_at:
            raise Killed

    made = seeded(network, 0)
    losses = fit(made, draw, nn.functional.cross_entropy, SETTINGS, seed=3, contents=contents, progress=progress)
    return made, losses


def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    whole, losses = train()
    with keeping_states(tmp_path / "training"):
        for step in (2, 5, 11, 12, 29):
            with pytest.raises(Killed):
                train(kill_at=step)
        resumed, again = train()
        theirs = resumed.state_dict()
        assert [name for name, value in whole.state_dict().items() if not torch.equal(value, theirs[name])] == []
        assert again == losses
        steps = []
        finished, _ = train(steps=steps)
        assert steps == []
        assert torch.equal(finished[2].weight, whole[2].weight)
        train(contents="other points", steps=steps)
        assert len(steps) == SETTINGS.steps
    assert len(list((tmp_path / "training").iterdir())) == 2


def test_nothing_is_kept_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train()
    assert list(tmp_path.iterdir()) == []
