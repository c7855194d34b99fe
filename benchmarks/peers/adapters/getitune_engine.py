"""getitune: ``LightningEngine`` with the recipe ``timm_generic``, on a Datumaro data set of the files."""

import polars
import torch
from datumaro.experimental import Dataset, Sample
from datumaro.experimental.categories import LabelCategories
from datumaro.experimental.export_import import ExportMode, export_dataset
from datumaro.experimental.fields import (
    ImageInfo,
    Subset,
    image_info_field,
    image_path_field,
    label_field,
    subset_field,
)
from getitune.backend.lightning.engine import LightningEngine
from getitune.types.task import TaskType
from PIL import Image

from task import read_task, write_predictions

task = read_task()
torch.set_num_threads(task.threads)


# begin: what a user writes
class Row(Sample):
    """An image as Datumaro keeps it, since class folders are not read."""

    image: str = image_path_field()
    label: int = label_field(polars.UInt16())
    subset: Subset = subset_field()
    info: ImageInfo = image_info_field()


def row(path, subset):
    """Return an image of a split; the labels of test images are not told."""
    width, height = Image.open(path).size
    label = 0 if subset is Subset.TESTING else names.index(path.parent.name)
    return Row(image=str(path), label=label, subset=subset, info=ImageInfo(width=width, height=height))


names = sorted(place.name for place in (task.data / "train").iterdir())


def main():
    """Train and predict; a function, since loading processes import this file."""
    files = sorted((task.data / "train").rglob("*.*"))
    rows = Dataset(Row, categories={"label": LabelCategories(labels=tuple(names))})
    rows.append_batch(
        [
            *(row(path, Subset.VALIDATION if place % 10 == 0 else Subset.TRAINING) for place, path in enumerate(files)),
            *(row(path, Subset.TESTING) for path in task.test_files),
        ]
    )
    export_dataset(rows, task.out / "data", export_media=ExportMode.REFERENCE)
    settings = {
        "model.model_name": task.architecture,
        "model.pretrained_weights": str(task.weights),
        "model.freeze_backbone": task.frozen,
        "model.optimizer.init_args.lr": 0.01,
        "model.optimizer.init_args.weight_decay": 1e-4,
        "data.input_size": f"[{task.size}, {task.size}]",
        **{f"data.{part}_subset.num_workers": 1 for part in ("train", "val", "test")},
    }
    engine = LightningEngine.from_model_name(
        "timm_generic",
        TaskType.MULTI_CLASS_CLS,
        data=task.out / "data",
        work_dir=task.out / "work",
        device="cpu",
        **settings,
    )
    engine.train(max_epochs=task.epochs, seed=task.seed, precision="32")
    batches = engine.predict()
    found = [names[int(label)] for batch in batches for label in batch.labels]
    # end
    write_predictions(task, found)


if __name__ == "__main__":
    main()
