"""Training of detectors: split, batches, loss, evaluation and fit."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert, complete_box_iou_loss

from pathology.errors import UsageError
from pathology.evaluation.detector import (
    Image,
    count_rates,
    froc,
    intervals_by_slide,
    rates,
    threshold_of_best_f1,
)
from pathology.findings.detections import Detections
from pathology.inference.engines.detector import WindowDetector, strongest_boxes
from pathology.networks.yolov4 import yolov4_csp
from pathology.training.common.checkpoint import Checkpoint
from pathology.training.detector.batches import BatchMaker, BatchSettings, tissue_cells
from pathology.training.detector.data import (
    BOX,
    CROP,
    Background,
    MitosisData,
    part_of_background,
    part_of_slide,
    read_folder,
    read_pack,
    write_pack,
)
from pathology.training.detector.fit import (
    DetectorFitSettings,
    evaluate_crops,
    evaluate_windows,
    false_alarms,
    fit_detector,
    learning_rate,
    released_settings,
)
from pathology.training.detector.loss import LossSettings, YoloLoss, anchor_iou

CPU = torch.device("cpu")
ANCHORS = ((40, 40), (50, 50), (62, 62)) * 3


def drawn_data(count: int = 24, seed: int = 0) -> MitosisData:
    """Crops of pink noise with a dark disc at the centre, and one background with paler discs."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:CROP, :CROP] - CROP / 2

    def tissue(height, width):
        return generator.normal((215, 150, 195), 9, (height, width, 3))

    crops = np.stack([tissue(CROP, CROP) for _ in range(count)])
    crops[:, np.hypot(x, y) < 13] = (60, 20, 90)
    background = tissue(320, 320)
    for _ in range(12):
        cx, cy = generator.integers(20, 300, 2)
        rows, columns = np.mgrid[:320, :320]
        background[np.hypot(columns - cx, rows - cy) < 10] = (150, 90, 150)
    objects = np.full((count, 6, 3), -1, np.float32)
    objects[:, 0] = (CROP / 2, CROP / 2, 1)
    slides = np.array([f"drawn/{i % 6}" for i in range(count)])
    return MitosisData(
        crops.clip(0, 255).astype(np.uint8),
        objects,
        slides,
        np.full(count, "train"),
        np.ones(count, bool),
        (Background("drawn", background.clip(0, 255).astype(np.uint8), 0.25, "train", np.empty((0, 2), np.float32)),),
    )


# Data ---------------------------------------------------------------------------------------------------------------


def test_split_is_fixed_by_the_slides_name():
    # Written down once: a change of the rule would move slides between training and test.
    known = {
        "MIDOG21/002.tiff": "train",
        "TUPAC16/01_stitched1.tif": "train",
        "MIDOG21/003.tiff": "test",
        "MIDOG21/005.tiff": "validation",
    }
    assert {slide: part_of_slide(slide) for slide in known} == known
    shares = [part_of_slide(f"slide {i}") for i in range(4000)]
    assert shares.count("train") == pytest.approx(2400, abs=120)
    assert shares.count("test") == pytest.approx(800, abs=100)


def test_real_crops_their_objects_and_their_split(data_dir):
    data = read_folder(data_dir / "mitosis")
    assert len(data.crops) == 2894
    for part in ("train", "validation", "test"):
        others = set(data.slides[data.parts != part])
        assert others.isdisjoint(data.slides[data.parts == part])
    assert (data.objects[:, 0, 2] == 1).all()
    # The database knows 24 further mitoses and 8 look-alikes inside the 1,292 crops of MIDOG 2021.
    rest = data.objects[data.complete, 1:, 2]
    assert ((rest == 1).sum(), (rest == 0).sum()) == (24, 8)
    held_out = data.of("test")
    assert len(held_out.crops) == 700
    assert [b.name for b in held_out.backgrounds] == ["canine-mammary-36075"]
    assert len(held_out.backgrounds[0].objects) == 5


def test_pack_round_trip(tmp_path):
    data = drawn_data(4)
    write_pack(data, tmp_path / "data.npz", crop_error=40)
    again = read_pack(tmp_path / "data.npz")
    np.testing.assert_array_equal(again.objects, data.objects)
    assert again.slides.tolist() == data.slides.tolist()
    assert abs(again.crops.astype(int) - data.crops.astype(int)).mean() < 4
    assert again.backgrounds[0].pixels.shape == data.backgrounds[0].pixels.shape
    assert part_of_background("canine-mammary-36075") == "test"


# Batches ------------------------------------------------------------------------------------------------------------


def test_targets_lie_on_the_discs():
    maker = BatchMaker(
        drawn_data(), BatchSettings(size=256, background=0.4, spoil=0, stain=0, tint=0, mitosis=1.0), CPU, seed=3
    )
    batch = maker.make(24)
    assert batch.images.shape == (24, 3, 256, 256)
    assert float(batch.images.min()) >= 0
    assert float(batch.images.max()) <= 1
    assert len(batch.targets) > 60
    brightness = batch.images.mean(dim=1)
    checked = 0
    for image, x, y, width, height in batch.targets.tolist():
        assert 30 < width == height < 110
        if 4 <= x < 252 and 4 <= y < 252:
            centre = brightness[int(image), int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
            assert float(centre.mean()) < 0.45
            checked += 1
    assert checked > 50


def test_pasted_tissue_without_mitosis_is_no_target():
    settings = BatchSettings(size=256, background=1.0, paste=1.0, mitosis=0.0, spoil=0)
    batch = BatchMaker(drawn_data(), settings, CPU, seed=0).make(6)
    assert len(batch.targets) == len(batch.ignored) == 0
    shown = BatchMaker(drawn_data(), settings.model_copy(update={"mitosis": 1.0}), CPU, seed=0).make(6)
    assert len(shown.targets) == 24


def test_cut_mitoses_are_ignored_not_punished():
    settings = BatchSettings(size=256, background=0.0, background_cell=0.0, cells=(0, 0, 1))
    batch = BatchMaker(drawn_data(), settings, CPU, seed=1).make(32)
    assert len(batch.ignored) > 10
    assert len(batch.targets) + len(batch.ignored) <= 32 * 16


def test_batches_repeat_with_their_seed():
    first, second = (BatchMaker(drawn_data(), BatchSettings(size=128), CPU, seed=5).make(3) for _ in range(2))
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=0)
    torch.testing.assert_close(first.targets, second.targets, rtol=0, atol=0)


def test_tissue_and_glass():
    image = np.full((256, 128, 3), 240, np.uint8)
    image[128:] = (210, 140, 190)
    np.testing.assert_array_equal(tissue_cells(image, 64), [[False, False], [False, False], [True, True], [True, True]])


# Loss ---------------------------------------------------------------------------------------------------------------


def raw_maps(network, size, value=0.0):
    return [torch.full((1, 18, size // s, size // s), value) for s in (8, 16, 32)]


def test_anchor_shapes_compare_as_boxes_on_one_centre():
    overlap = anchor_iou(torch.tensor([[50.0, 50]]), torch.tensor([[50.0, 50], [25, 50], [100, 100]]))
    torch.testing.assert_close(overlap, torch.tensor([[1.0, 0.5, 0.25]]))


def test_box_loss_is_the_mean_complete_iou_loss_of_the_answering_anchors():
    network = yolov4_csp(width=0.125, anchors=ANCHORS)
    target = torch.tensor([[0, 70.0, 50.0, 50.0, 44.0]])
    _, box, _ = YoloLoss.of(network, LossSettings())(raw_maps(network, 128), 128, target, torch.empty(0, 5))
    expected = []
    for stride in (8, 16, 32):
        # Zero maps: the centre of the cell and the anchor itself.
        x, y = ((v // stride + 0.5) * stride for v in (70, 50))
        predicted = torch.tensor([[x, y, a, a] for a in (40.0, 50.0, 62.0)])
        wanted = target[:, 1:].expand(3, 4)
        corners = [box_convert(b, "cxcywh", "xyxy") for b in (predicted, wanted)]
        expected += complete_box_iou_loss(*corners).tolist()
    assert float(box) == pytest.approx(np.mean(expected), rel=1e-5)


def test_darknets_objectness_is_a_sum_over_anchors():
    network = yolov4_csp(width=0.125, anchors=ANCHORS)
    loss = YoloLoss.of(network, LossSettings(objectness="sum", box=0.07))
    nothing = torch.empty(0, 5)
    total, box, objectness = loss(raw_maps(network, 128), 128, nothing, nothing)
    anchors = 3 * (16 * 16 + 8 * 8 + 4 * 4)
    assert float(objectness) == pytest.approx(anchors * math.log(2), rel=1e-5)
    assert float(total) == pytest.approx(float(objectness))
    assert float(box) == 0


def test_ignored_regions_cost_nothing():
    network = yolov4_csp(width=0.125, anchors=ANCHORS)
    loss = YoloLoss.of(network, LossSettings(objectness="sum"))
    nothing, everywhere = torch.empty(0, 5), torch.tensor([[0, 64.0, 64.0, 200.0, 200.0]])
    assert float(loss(raw_maps(network, 128), 128, nothing, everywhere)[2]) == 0


def test_a_right_answer_costs_less_than_a_wrong_one():
    network = yolov4_csp(width=0.125, anchors=ANCHORS)
    loss = YoloLoss.of(network, LossSettings())
    target, nothing = torch.tensor([[0, 68.0, 52.0, 50.0, 50.0]]), torch.empty(0, 5)
    right, wrong = raw_maps(network, 128, -6.0), raw_maps(network, 128, -6.0)
    for maps, shift in ((right, 0), (wrong, 1)):
        for stride, raw in zip((8, 16, 32), maps, strict=True):
            split = raw.view(1, 3, 6, *raw.shape[2:])
            split[:, :, :4] = 0
            split[0, :, 4:, (52 // stride + shift) % raw.shape[2], 68 // stride] = 6.0
    assert float(loss(right, 128, target, nothing)[0]) < 0.2 * float(loss(wrong, 128, target, nothing)[0])


# Boxes of windows ---------------------------------------------------------------------------------------------------


def test_strongest_boxes_per_window():
    decoded = torch.tensor(
        [
            [[50, 50, 20, 20, 0.9], [52, 50, 20, 20, 0.8], [100, 100, 20, 20, 0.7]],
            [[50, 50, 20, 20, 0.01], [52, 50, 20, 20, 0.02], [100, 100, 20, 20, 0.95]],
        ]
    )
    boxes = strongest_boxes(decoded, floor=0.1, most=4)
    assert boxes.shape == (2, 4, 5)
    torch.testing.assert_close(boxes[0, :2], torch.tensor([[40, 40, 60, 60, 0.9], [90, 90, 110, 110, 0.7]]))
    torch.testing.assert_close(boxes[1, 0], torch.tensor([90, 90, 110, 110, 0.95]))
    assert float(boxes[0, 2:].abs().sum()) == float(boxes[1, 1:].abs().sum()) == 0


def test_a_window_does_not_depend_on_its_companions():
    torch.manual_seed(0)
    network = yolov4_csp(width=0.125, anchors=ANCHORS).eval()
    windows = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        # An untrained network's sums are huge; the last convolutions are scaled so that sizes stay finite.
        maps = network(torch.rand(1, 3, 64, 64))
        linear = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
        for convolution, raw in zip(linear, maps, strict=True):
            convolution.weight /= raw.std()
    one = WindowDetector(network, device=CPU, batch_size=1, floor=0.0).detect(windows)
    many = WindowDetector(network, device=CPU, batch_size=4, floor=0.0).detect(windows)
    np.testing.assert_allclose(one, many, rtol=1e-4, atol=1e-3)
    steep = WindowDetector(network, device=CPU, floor=0.0, calibration=(1.0, 2.0)).detect(windows)
    shifted = 1 / (1 + np.exp(-(np.log(many[..., 4] / (1 - many[..., 4])) + 2)))
    np.testing.assert_allclose(steep[..., 4], shifted, atol=1e-4)


# Evaluation ---------------------------------------------------------------------------------------------------------


def test_published_rates_of_zehra_2022():
    measured = count_rates(97, 33, 11)
    assert [round(v, 4) for v in (measured.precision, measured.recall, measured.f1)] == [0.7462, 0.8981, 0.8151]
    assert measured.precision_interval == pytest.approx((0.665, 0.813), abs=5e-4)
    assert measured.recall_interval == pytest.approx((0.827, 0.942), abs=5e-4)
    assert measured.f1_interval[0] < measured.f1 < measured.f1_interval[1]
    with pytest.raises(UsageError):
        count_rates(-1, 0, 0)


def image(slide, found, mitoses, area=1.0):
    """Detections as (x, y, score) and mitoses as (x, y)."""
    rows = np.array(found, float).reshape(-1, 3)
    boxes = np.concatenate([rows[:, :2] - 25, rows[:, :2] + 25], 1).astype(np.float32)
    return Image(slide, Detections(boxes, rows[:, 2].astype(np.float32)), np.array(mitoses, float).reshape(-1, 2), area)


EXAMPLE = [
    image("a", [(50, 50, 0.9), (200, 200, 0.8), (52, 50, 0.3)], [(50, 50), (300, 300)], 2.0),
    image("b", [(10, 10, 0.6)], [(12, 10)], 1.0),
    image("c", [(10, 10, 0.7)], [], 1.0),
]


def test_rates_at_a_threshold():
    r = rates(EXAMPLE, 0.65, 30)
    assert (r.true_positives, r.false_positives, r.false_negatives) == (1, 2, 2)
    assert rates(EXAMPLE, 0.0, 30).recall == pytest.approx(2 / 3)


def test_froc_by_hand():
    curve = froc(EXAMPLE, 30)
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.8, 0.7, 0.6, 0.3], atol=1e-6)
    np.testing.assert_allclose(curve.sensitivity, [1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(curve.false_positives_per_mm2, [0, 0.25, 0.5, 0.5, 0.75])
    assert curve.sensitivity_at(0.0) == pytest.approx(1 / 3)
    assert curve.sensitivity_at(0.5) == pytest.approx(2 / 3)
    with pytest.raises(UsageError):
        froc([image("a", [], [])], 30)


@given(st.integers(0, 10_000))
def test_best_threshold_is_the_best_of_all(seed):
    generator = np.random.default_rng(seed)
    images = [
        image(
            str(i),
            np.concatenate([generator.uniform(0, 200, (4, 2)), generator.integers(0, 10, (4, 1)) / 10], 1),
            generator.uniform(0, 200, (2, 2)),
        )
        for i in range(5)
    ]
    threshold, f1 = threshold_of_best_f1(images, 40)
    every = [rates(images, float(t), 40).f1 for t in {s for i in images for s in i.detections.scores}]
    assert f1 == pytest.approx(max(every), abs=1e-9) or f1 == max(every) == 0
    if f1:
        assert rates(images, threshold, 40).f1 == pytest.approx(f1)


def test_bootstrap_draws_slides():
    images = [
        image(s, [(0, 0, 0.9)] if hit else [], [(0, 0)]) for s, hit in zip("aaabbb", (1, 1, 1, 0, 0, 0), strict=True)
    ]
    limits = intervals_by_slide(images, 0.5, 10)
    assert limits["recall"] == (0.0, 1.0), "two slides, one found and one missed: nothing between is known"
    assert limits["precision"] == (1.0, 1.0)
    with pytest.raises(UsageError):
        intervals_by_slide(images[:3], 0.5, 10)


# Fit ----------------------------------------------------------------------------------------------------------------


def test_intervals_by_slide_equal_resampling_the_images():
    generator = np.random.default_rng(3)
    images = [
        image(f"slide {i % 7}", [(0, 0, generator.uniform())], [(generator.uniform(0, 30), 0)]) for i in range(60)
    ]
    low, high = intervals_by_slide(images, 0.4, 15, repeats=4000)["f1"]
    slides = sorted({i.slide for i in images})
    values = []
    for _ in range(300):
        chosen = generator.choice(slides, len(slides))
        values.append(rates([i for s in chosen for i in images if i.slide == s], 0.4, 15).f1)
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.05)


def test_released_schedule_is_the_published_one():
    settings = released_settings()
    assert (settings.iterations, settings.batch, settings.batches.size, settings.loss.box) == (2000, 64, 416, 0.07)
    assert learning_rate(settings, 0, 0) == 0
    assert learning_rate(settings, 500, 0) == pytest.approx(0.00261 / 16)
    # The first step falls inside the rise, so what follows it is a tenth; the second is never reached.
    assert {round(learning_rate(settings, i, 0), 9) for i in range(1000, 2000)} == {0.000261}


def test_modern_schedule_rises_and_falls():
    settings = DetectorFitSettings()
    values = [learning_rate(settings, 0, c) for c in np.linspace(0, 1, 101)]
    assert max(values) == pytest.approx(settings.rate, rel=0.02)
    assert values[0] < 0.02 * settings.rate
    assert values[-1] < 0.02 * settings.rate


@pytest.mark.long
def test_a_small_detector_learns_drawn_discs():
    torch.manual_seed(0)
    data = drawn_data()
    network = yolov4_csp(width=0.125, size=128, anchors=ANCHORS)
    settings = DetectorFitSettings(
        # Fewer steps, or larger ones, leave an outcome that hangs on rounding, and so on the number of threads.
        iterations=350,
        batch=4,
        rate=1.5e-3,
        average=0.95,
        mining=(0.7,),
        mining_windows=4,
        batches=BatchSettings(size=128, cells=(1, 0, 0), spoil=0, background=0.3),
    )
    lines = []
    fitted = fit_detector(network, data, settings, device=CPU, report=lines.append)
    assert fitted.iterations == 350
    assert len(fitted.false_alarms) == 1
    assert lines
    losses = [loss for _, loss, _, _ in fitted.history]
    assert losses[-1] < 0.6 * losses[0]
    held_out = drawn_data(12, seed=9)
    _, f1 = threshold_of_best_f1(evaluate_crops(fitted.network, held_out, device=CPU), 30)
    assert f1 > 0.8
    _, elsewhere = threshold_of_best_f1(evaluate_windows(fitted.network, held_out, device=CPU), 30)
    assert elsewhere > 0.8
    # Not how many: the field is wider than any image this network was trained on.
    (many, area), (none, _) = (
        false_alarms(fitted.network, held_out.backgrounds, device=CPU, threshold=t) for t in (0.01, 1.0)
    )
    assert many > none == 0
    assert area == pytest.approx((320 // 64 * 64 * 0.25e-3) ** 2)


class Killed(Exception):
    pass


class KillingCheckpoint(Checkpoint):
    """Ends a training as abruptly as Python allows, once a state is on disk."""

    def write(self, values, tensors, *, number):
        super().write(values, tensors, number=number)
        raise Killed


@pytest.mark.parametrize("every", [1, 2])
def test_a_killed_fit_ends_with_the_same_weights(tmp_path, every):
    settings = DetectorFitSettings(
        iterations=4, batch=1, mining=(0.5,), mining_windows=2, save_every=every, batches=BatchSettings(size=128)
    )

    def run(checkpoint=None):
        torch.manual_seed(0)
        network = yolov4_csp(width=0.125, size=128, anchors=ANCHORS)
        return fit_detector(network, drawn_data(4), settings, device=CPU, checkpoint=checkpoint)

    whole = run()
    for _ in range(4 // every):
        with pytest.raises(Killed):
            run(KillingCheckpoint(tmp_path / "state", "one"))
    resumed = run(Checkpoint(tmp_path / "state", "one"))
    ours, theirs = whole.network.state_dict(), resumed.network.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (resumed.history, resumed.false_alarms, resumed.iterations) == (whole.history, whole.false_alarms, 4)


def test_time_ends_a_fit():
    settings = DetectorFitSettings(
        iterations=10_000, seconds=1.0, batch=1, mining=(), batches=BatchSettings(size=128), average=0.9
    )
    data = dataclasses.replace(drawn_data(4), backgrounds=())
    fitted = fit_detector(yolov4_csp(width=0.125, size=128, anchors=ANCHORS), data, settings, device=CPU)
    assert 0 < fitted.iterations < 10_000
    assert fitted.images == fitted.iterations
    assert BOX == 50
