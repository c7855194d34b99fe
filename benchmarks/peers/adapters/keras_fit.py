"""Keras 3: ``fit`` of EfficientNetB0 from scratch, since its weights can't be fetched everywhere: speed only."""

import keras

from task import read_task, write_predictions

task = read_task()
keras.utils.set_random_seed(task.seed)

# begin: what a user writes
train = keras.utils.image_dataset_from_directory(task.data / "train", image_size=(task.size, task.size), batch_size=64)
test = keras.utils.image_dataset_from_directory(
    task.data / "test", image_size=(task.size, task.size), batch_size=64, shuffle=False
)
base = keras.applications.EfficientNetB0(
    include_top=False, weights=None, pooling="avg", input_shape=(task.size, task.size, 3)
)
base.trainable = not task.frozen
model = keras.Sequential([keras.layers.RandomFlip("horizontal"), base, keras.layers.Dense(10)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=loss, metrics=["accuracy"])
model.fit(train, epochs=task.epochs, verbose=2)
found = model.predict(test, verbose=0).argmax(axis=1)
# end

by_file = dict(zip(test.file_paths, found.tolist(), strict=True))
write_predictions(task, (test.class_names[by_file[str(path)]] for path in task.test_files))
