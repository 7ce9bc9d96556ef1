import numpy as np

from pathology.inference.engines.base import Engine
from pathology.inference.engines.recheck import RecheckTies


class Told(Engine):
    """Answers what it was told, by the first pixel of a patch."""

    name = "told"
    device = "cpu"
    patch = 4

    def __init__(self, answers, precision="bf16"):
        self._answers = np.array(answers, np.float32)
        self.precision = precision
        self.batch_size = 2
        self.preferred_batch = 4
        self.classes = self._answers.shape[1]
        self.asked = []

    def _predict(self, patches):
        keys = patches[:, 0, 0, 0]
        self.asked.extend(keys.tolist())
        return self._answers[keys]

    def close(self):
        pass


def patches(count):
    result = np.zeros((count, 4, 4, 3), np.uint8)
    result[:, 0, 0, 0] = np.arange(count)
    return result


def test_ties_and_overflows_are_computed_again_and_nothing_else():
    nan = float("nan")
    fast = Told([[0.9, 0.1], [0.52, 0.48], [nan, nan], [0.4, 0.6]])
    exact = Told([[0.8, 0.2], [0.49, 0.51], [0.3, 0.7], [0.45, 0.55]], "fp32")
    engine = RecheckTies(fast, exact, margin=0.1)
    got = engine.predict(patches(4))
    np.testing.assert_array_equal(got, np.array([[0.9, 0.1], [0.49, 0.51], [0.3, 0.7], [0.4, 0.6]], np.float32))
    assert exact.asked == [1, 2]
    assert (engine.rescored, engine.seen) == (2, 4)


def test_one_output_has_no_ties():
    engine = RecheckTies(Told([[0.5], [0.5]]), Told([[0.1], [0.1]]))
    np.testing.assert_array_equal(engine.predict(patches(2)), np.full((2, 1), 0.5, np.float32))
