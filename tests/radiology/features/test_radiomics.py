import logging

import numpy as np
import pytest

from pathology.radiology.features.radiomics import FeatureSettings, default_features, extract_features
from pathology.radiology.io.errors import EmptyMaskError, GeometryError, StudyError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.volume import Mask, Volume
from pathology.testing.radiology_phantoms import tumour_phantom

# The digital phantom of the IBSI reference manual (arXiv 1612.07003, chapter 5): 5 x 4 x 4 voxels of 2 mm; 0 is outside
# the region.
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    dtype=np.float32,
)

# Published reference values, to the digits printed there; texture with matrices merged in 3D.
PUBLISHED = {
    "morph_volume": 556,
    "morph_vol_approx": 592,
    "morph_area_mesh": 388,
    "morph_av": 0.698,
    "morph_comp_1": 0.0411,
    "morph_comp_2": 0.599,
    "morph_sphericity": 0.843,
    "morph_asphericity": 0.186,
    "morph_com": 0.672,
    "morph_diam": 13.1,
    "morph_pca_maj_axis": 11.4,
    "morph_pca_min_axis": 9.31,
    "morph_pca_least_axis": 8.54,
    "morph_pca_elongation": 0.816,
    "morph_pca_flatness": 0.749,
    "morph_vol_dens_conv_hull": 0.961,
    "morph_moran_i": 0.0397,
    "morph_geary_c": 0.974,
    "stat_mean": 2.15,
    "stat_var": 3.05,
    "stat_skew": 1.08,
    "stat_kurt": -0.355,
    "stat_median": 1,
    "stat_p90": 4,
    "stat_iqr": 3,
    "stat_mad": 1.55,
    "stat_rmad": 1.11,
    "stat_medad": 1.15,
    "stat_cov": 0.812,
    "stat_qcod": 0.6,
    "stat_energy": 567,
    "stat_rms": 2.77,
    "ih_entropy_fbn_n6": 1.27,
    "ih_uniformity_fbn_n6": 0.512,
    "ih_max_grad_fbn_n6": 8,
    "ih_min_grad_fbn_n6": -50,
    "cm_joint_max_d1_3d_v_mrg_fbn_n6": 0.509,
    "cm_joint_avg_d1_3d_v_mrg_fbn_n6": 2.15,
    "cm_joint_var_d1_3d_v_mrg_fbn_n6": 3.13,
    "cm_joint_entr_d1_3d_v_mrg_fbn_n6": 2.57,
    "cm_diff_avg_d1_3d_v_mrg_fbn_n6": 1.38,
    "cm_diff_var_d1_3d_v_mrg_fbn_n6": 3.21,
    "cm_sum_entr_d1_3d_v_mrg_fbn_n6": 2.11,
    "cm_energy_d1_3d_v_mrg_fbn_n6": 0.291,
    "cm_contrast_d1_3d_v_mrg_fbn_n6": 5.12,
    "cm_inv_diff_mom_d1_3d_v_mrg_fbn_n6": 0.631,
    "cm_corr_d1_3d_v_mrg_fbn_n6": 0.183,
    "cm_auto_corr_d1_3d_v_mrg_fbn_n6": 5.19,
    "cm_clust_shade_d1_3d_v_mrg_fbn_n6": 17.4,
    "cm_clust_prom_d1_3d_v_mrg_fbn_n6": 147,
    "cm_info_corr1_d1_3d_v_mrg_fbn_n6": -0.0288,
    "cm_info_corr2_d1_3d_v_mrg_fbn_n6": 0.269,
    "rlm_sre_3d_v_mrg_fbn_n6": 0.729,
    "rlm_lre_3d_v_mrg_fbn_n6": 2.76,
    "rlm_glnu_3d_v_mrg_fbn_n6": 281,
    "rlm_rlnu_3d_v_mrg_fbn_n6": 328,
    "rlm_r_perc_3d_v_mrg_fbn_n6": 0.68,
    "rlm_rl_entr_3d_v_mrg_fbn_n6": 2.62,
    "szm_sze_3d_fbn_n6": 0.255,
    "szm_lze_3d_fbn_n6": 550,
    "szm_gl_var_3d_fbn_n6": 2.64,
    "szm_zs_entr_3d_fbn_n6": 2.32,
    "dzm_lgze_3d_fbn_n6": 0.253,
    "dzm_zd_entr_3d_fbn_n6": 1.92,
    "ngt_coarseness_3d_fbn_n6": 0.0296,
    "ngt_contrast_3d_fbn_n6": 0.584,
    "ngt_busyness_3d_fbn_n6": 6.54,
    "ngt_complexity_3d_fbn_n6": 13.5,
    "ngt_strength_3d_fbn_n6": 0.763,
    "ngl_lde_d1_a0.0_3d_fbn_n6": 0.045,
    "ngl_hde_d1_a0.0_3d_fbn_n6": 109,
    "ngl_dc_entr_d1_a0.0_3d_fbn_n6": 4.4,
}


@pytest.fixture(scope="module")
def phantom_features():
    geometry = Geometry((5, 4, 4), (2, 2, 2))
    return extract_features(
        Volume(PHANTOM, geometry, "MR"), Mask(PHANTOM > 0, geometry), FeatureSettings(spacing_mm=None, bins=6)
    )


def same_digits(published, value):
    """Whether a value rounds to what is printed."""
    digits = len(f"{abs(published):g}".replace(".", "").lstrip("0"))
    return float(f"{value:.{digits}g}") == published


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_digital_phantom_of_the_ibsi(phantom_features, name):
    assert same_digits(PUBLISHED[name], phantom_features[name]), (phantom_features[name], PUBLISHED[name])


def test_large_tumours_measure_alike_again():
    """From 1000 voxels on some features rest on random points, whose seed must not depend on a temporary folder."""
    image, mask = tumour_phantom(Geometry((60, 60, 30), (2.0, 2.0, 3.0)), seed=1)
    assert mask.volume_mm3 / 2.0**3 > 1000
    settings = FeatureSettings(families=("morphology",))
    first, again = (extract_features(image, mask, settings) for _ in range(2))
    assert {"morph_moran_i", "morph_geary_c"} <= set(first)
    assert first == again


def test_units_choose_the_discretisation(ct):
    image, mask = ct
    # Another offset moves fixed-width bins from -1000 HU, so histogram features shift with it, and texture does not.
    chosen = default_features("CT").model_copy(update={"families": ("ih", "glcm")})
    first = extract_features(image, mask, chosen)
    second = extract_features(image.with_array(image.array + 25), mask, chosen)
    mean = next(n for n in first if n.startswith("ih_mean"))
    contrast = next(n for n in first if n.startswith("cm_contrast"))
    assert second[mean] == pytest.approx(first[mean] + 1, abs=0.05)
    assert second[contrast] == pytest.approx(first[contrast], rel=0.02)
    assert default_features("PT").bin_width == 0.25
    assert default_features("MR").bins == 32
    with pytest.raises(ValueError, match="either bins or bin_width"):
        FeatureSettings(bins=32, bin_width=25)


def test_regions_that_cannot_be_measured_are_refused(mr, ct, oblique):
    image, mask = mr
    with pytest.raises(EmptyMaskError):
        extract_features(image, Mask(np.zeros_like(mask.array), mask.geometry))
    with pytest.raises(GeometryError):
        extract_features(image, Mask(mask.array, oblique))
    point = np.zeros_like(mask.array)
    point[7, 18, 20] = True
    with pytest.raises(StudyError, match="less than 27 voxels"):
        extract_features(image, Mask(point, mask.geometry))


def test_logging_is_left_alone(mr):
    before = list(logging.getLogger().handlers)
    extract_features(*mr, FeatureSettings(families=("statistics",)))
    assert logging.getLogger().handlers == before
