from . import features, images, io, models
