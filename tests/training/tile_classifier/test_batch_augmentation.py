"""Random changes: what they leave alone, what they change, and that they can be drawn again."""

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed

from pathology.training.tile_classifier.batch_augmentation import (
    AugmentationSettings,
    augment,
    jitter_stain,
    window_side,
)

NOTHING = AugmentationSettings(resampled=0, scale=0, stain=0, stain_shift=0, contrast=0, brightness=0)


def windows(count: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Not darker than 30: log optical density is cut at 1.
    return torch.randint(30, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("side", [47, 48])
def test_without_changes_patches_are_flipped_and_turned_by_quarters_pixel_by_pixel(side):
    source = windows(1, side).expand(64, -1, -1, -1)
    patches = augment(source, 32, NOTHING, draw())
    middle = (source[0] / 255)[:, (side - 32) // 2 :, (side - 32) // 2 :][:, :32, :32]
    possible = [torch.rot90(form, k, (1, 2)) for form in (middle, middle.flip(2)) for k in range(4)]
    seen = set()
    for patch in patches:
        distances = [float((patch - form).abs().max()) for form in possible]
        assert min(distances) < 1e-4
        seen.add(int(np.argmin(distances)))
    assert seen == set(range(8))


def test_the_same_seed_gives_the_same_patches_and_another_gives_others():
    source = windows(4, 64)
    first = augment(source, 32, AugmentationSettings(), draw(1))
    assert torch.equal(first, augment(source, 32, AugmentationSettings(), draw(1)))
    assert not torch.equal(first, augment(source, 32, AugmentationSettings(), draw(2)))


def test_values_stay_within_0_and_1_and_finite():
    source = torch.cat([windows(16, 64), torch.zeros(1, 3, 64, 64, dtype=torch.uint8)])
    patches = augment(source, 32, AugmentationSettings(brightness=0.5, contrast=0.9), draw())
    assert patches.shape == (17, 3, 32, 32)
    assert float(patches.min()) >= 0
    assert float(patches.max()) <= 1


def test_any_angle_and_scale_fit_into_the_window():
    settings = AugmentationSettings(resampled=1, stain=0, stain_shift=0, contrast=0, brightness=0)
    side = window_side(32, settings)
    # Only pixels outside the patch's reach are black; a patch that looked beyond would see them.
    source = torch.full((200, 3, side + 40, side + 40), 200, dtype=torch.uint8)
    source[..., :19, :] = source[..., -19:, :] = 0
    source[..., :, :19] = source[..., :, -19:] = 0
    assert float(augment(source, 32, settings, draw()).min()) > 0.78


def test_resampled_patches_differ_from_quarter_turns():
    settings = NOTHING.model_copy(update={"resampled": 1.0, "scale": 0.1})
    source = windows(8, 64)
    sharp = augment(source, 32, NOTHING, draw())
    # Interpolation of noise lowers its variance.
    assert (augment(source, 32, settings, draw()).std(dim=(1, 2, 3)) < sharp.std(dim=(1, 2, 3)) * 0.95).all()


def test_brightness_and_contrast_do_what_they_say():
    source = windows(64, 32)
    patches = augment(source, 32, NOTHING.model_copy(update={"brightness": 0.05}), draw())
    change = patches.mean(dim=(1, 2, 3)) - (source / 255).mean(dim=(1, 2, 3))
    assert 0.02 < float(change.std()) < 0.04  # Uniform within 0.05: 0.029.
    patches = augment(source, 32, NOTHING.model_copy(update={"contrast": 0.2}), draw())
    ratio = patches.std(dim=(1, 2, 3)) / (source / 255).std(dim=(1, 2, 3))
    assert 0.75 < float(ratio.min()) < 0.9
    assert 1.0 < float(ratio.max()) < 1.25


class TestStain:
    def test_amount_1_and_shift_0_change_nothing(self):
        pixels = windows(2, 16) / 255
        changed = jitter_stain(pixels, torch.ones(2, 3), torch.zeros(2, 3))
        torch.testing.assert_close(changed, pixels, atol=1e-5, rtol=0)

    def test_more_of_a_stain_is_scikit_images_more(self):
        """Colours that are mixtures of the three stains, so that scikit-image's cut at zero does not bite."""
        rng = np.random.default_rng(0)
        mixture = rng.uniform(0.002, 0.05, (1, 16, 16, 3))
        rgb = hed2rgb(mixture)
        amount, shift = np.array([1.3, 0.8, 1.1]), np.array([0.01, 0.0, 0.002])
        # scikit-image divides optical density by -log(1e-6).
        expected = hed2rgb(rgb2hed(rgb) * amount + shift / -np.log(1e-6))
        pixels = torch.from_numpy(rgb).permute(0, 3, 1, 2)
        changed = jitter_stain(pixels, torch.from_numpy(amount)[None], torch.from_numpy(shift)[None])
        np.testing.assert_allclose(changed.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)

    def test_more_haematoxylin_is_darker_and_bluer(self):
        pixels = torch.tensor([0.6, 0.4, 0.7]).view(1, 3, 1, 1)
        more = jitter_stain(pixels, torch.tensor([[1.5, 1.0, 1.0]]), torch.zeros(1, 3)).flatten()
        assert (more < pixels.flatten()).all()
        assert more[0] / 0.6 < more[2] / 0.7
