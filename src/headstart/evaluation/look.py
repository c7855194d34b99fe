"""Reading the test split before anything is trained, to describe it."""

from headstart.data.dataset import Dataset
from headstart.data.subset import Subset


def look_at_test(dataset: Dataset) -> Subset:
    """Return the test split for description: its pixels, class counts and copies of training images.

    Nothing may be fitted or selected with it. The caller records that it was opened, and for what.
    """
    return dataset.sealed_test.open()
