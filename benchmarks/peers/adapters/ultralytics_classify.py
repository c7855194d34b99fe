"""Ultralytics classify: its own network, YOLO11n, from scratch, since its weights may be out of reach: speed only."""

from ultralytics import YOLO

from task import read_task, write_predictions

task = read_task()

# begin: what a user writes
model = YOLO("yolo11n-cls.yaml")
model.train(
    data=str(task.data), epochs=task.epochs, imgsz=task.size, batch=64, workers=1, seed=task.seed, device="cpu",
    project=str(task.out), name="train", freeze=10 if task.frozen else None, plots=False, val=False, amp=False,
)  # fmt: skip
results = model.predict(str(task.data / "test" / "*" / "*"), imgsz=task.size, stream=True, verbose=False)
found = {one.path: one.names[one.probs.top1] for one in results}
# end

write_predictions(task, (found[str(path)] for path in task.test_files))
