from .bundle import RadiologyCard
from .image_recipe import ImageRecipe
from .recipe import Recipe
from .segmentation_metrics import Agreement, dice, segmentation_agreement
from .segmentation_recipe import SegmentationRecipe
from .signature_recipe import SignatureRecipe
from .survival_recipe import SurvivalRecipe

__all__ = [
    "Agreement",
    "ImageRecipe",
    "RadiologyCard",
    "Recipe",
    "SegmentationRecipe",
    "SignatureRecipe",
    "SurvivalRecipe",
    "dice",
    "segmentation_agreement",
]
