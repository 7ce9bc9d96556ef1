from .array_reader import ArrayReader
from .constructed_results import write_constructed_results
from .engine_suite import EngineSuite
from .radiology_phantoms import tumour_phantom
from .random_bundle import write_random_bundle
from .slide_reader_suite import SlideReaderSuite
from .synthetic_slides import write_svs
from .synthetic_tissue import ArrayPicture, TissuePicture, tissue_tile

__all__ = [
    "ArrayPicture",
    "ArrayReader",
    "EngineSuite",
    "SlideReaderSuite",
    "TissuePicture",
    "tissue_tile",
    "tumour_phantom",
    "write_constructed_results",
    "write_random_bundle",
    "write_svs",
]
