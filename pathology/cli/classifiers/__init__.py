"""The commands that train and evaluate slide classifiers, and compare readers."""
