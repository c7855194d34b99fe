"""What a waiting person sees, on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from headstart.training.loop import Progress


class Display:
    """Messages and bars on stderr; silent when switched off."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._console = Console(stderr=True, quiet=not enabled, highlight=False)

    def say(self, message: str) -> None:
        """Print one line."""
        self._console.print(message)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar; yields what advances it by a count."""
        with self._bars() as bars:
            task = bars.add_task(title, total=total, note="")
            yield lambda count: bars.advance(task, count)

    @contextmanager
    def share(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Show a bar; yields what is told the count done and the count in all."""
        with self._bars() as bars:
            task = bars.add_task(title, total=None, note="")
            yield lambda done, total: bars.update(task, completed=done, total=total)

    @contextmanager
    def epochs(
        self, epochs: int, steps: int
    ) -> Iterator[tuple[Callable[[Progress], None], Callable[[Progress], None]]]:
        """Show a bar over all steps; yields what to call after a step and after an epoch."""
        with self._bars() as bars:
            task = bars.add_task("Fine-tuning", total=epochs * steps, note="")

            def on_step(progress: Progress) -> None:
                note = f"epoch {progress.epoch + 1}/{epochs}  loss {progress.loss_sum / progress.seen:.3f}"
                bars.update(task, completed=progress.epoch * steps + progress.step, note=note)

            def on_epoch(progress: Progress) -> None:
                last = progress.history[-1]
                self.say(
                    f"Epoch {last.epoch}/{epochs}  {last.image_size} px  train loss {last.train_loss:.3f} "
                    f"accuracy {last.train_accuracy:.2%}  validation loss {last.val_loss:.3f} "
                    f"accuracy {last.val_accuracy:.2%}  {last.seconds:.0f} s, {last.images_per_second:.0f} images/s"
                )

            yield on_step, on_epoch

    def _bars(self) -> Bars:
        return Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=self._console.quiet or not self._console.is_terminal,
        )
