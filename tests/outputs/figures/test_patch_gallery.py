import numpy as np

from pathology.outputs.figures.patch_gallery import attention_picture
from pathology.outputs.figures.thumbnail import SlidePicture

COORDS = np.array([[0, 0], [40, 0], [200, 0], [0, 200], [200, 200]], np.int32)


def test_attention_is_red_where_the_weight_is():
    picture = SlidePicture(np.full((100, 100, 3), 200, np.uint8), (3.0, 3.0))
    drawn = attention_picture(np.array([0.0, 1.0, 0.5, 0.25, np.nan]), COORDS, 64.0, picture)
    assert drawn[5, 5].tolist() == [200, 200, 200]
    assert drawn[5, 20, 0] > drawn[5, 20, 1] + 100
    assert drawn[5, 20, 1] < drawn[5, 70, 1] < drawn[70, 5, 1] < drawn[70, 70, 1] == 200
    assert attention_picture(None, COORDS, 64.0, picture) is None
