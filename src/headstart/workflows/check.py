"""Whether a recipe fits its data, before anything is trained."""

from dataclasses import dataclass
from pathlib import Path

from headstart.recipe.schema import Recipe
from headstart.terminal import Terminal
from headstart.training.material import split_checked
from headstart.workflows.load import load_data


@dataclass(frozen=True)
class DataFacts:
    """What a data set is, without its images.

    Attributes:
        name: Name of the data set.
        sha256: SHA-256 of the whole data set, whatever the limit.
        classes: Names of the classes, in index order.
        n_train: Images trained on.
        n_val: Images in the validation split.
        n_test: Images in the test split.
    """

    name: str
    sha256: str
    classes: tuple[str, ...]
    n_train: int
    n_val: int
    n_test: int


def check_recipe(recipe: Recipe, *, data_dir: Path | None, progress: bool) -> DataFacts:
    """Load the data of a recipe and check that they fit each other.

    Raises:
        InputError: The data can't be had, or the recipe does not fit them.
    """
    dataset = load_data(recipe, Terminal(enabled=progress), data_dir=data_dir)
    train, val = split_checked(recipe, dataset)
    return DataFacts(
        name=dataset.name,
        sha256=dataset.sha256,
        classes=dataset.class_names.names,
        n_train=len(train),
        n_val=len(val),
        n_test=len(dataset.sealed_test),
    )
