"""The line in which images wait: decoded by a small pool of threads, computed in batches by one thread.

Batches grow with the load. The thread takes what is waiting, up to a batch, and starts at once; what comes meanwhile
is the next batch. So an image that comes alone never waits for others.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition, Thread

from headstart.compute.cores import available_cores, give_way
from headstart.contracts import UInt8Image
from headstart.errors import InputError
from headstart.inference.judge import Box, FilePrediction, box_in_shares
from headstart.server.meters import Meters
from headstart.server.models import Served
from headstart.server.settings import Limits

_log = logging.getLogger("headstart.server")
Source = Callable[[], UInt8Image]
"""Decodes an image; raises InputError where that can't be done."""
_FAILED = "the model could not compute it"
_LATE = "not computed in time"


class BusyError(Exception):
    """No room in the line; come back later."""


@dataclass(eq=False)
class _Job:
    """An image on its way from its bytes to its prediction."""

    model: Served
    source: Source
    deadline: float
    evidence: bool
    future: asyncio.Future[FilePrediction | str]
    square: UInt8Image = field(init=False)
    box: Box = field(init=False)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done() or time.monotonic() > self.deadline


class Line:
    """Images of all requests. ``predict`` belongs to the event loop; the rest may be read from any thread."""

    def __init__(self, limits: Limits, meters: Meters) -> None:
        """Start the threads."""
        self._limits, self._meters = limits, meters
        self._taken = 0
        self._waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._stopped = False
        self._since: float | None = None
        cores = min(4, available_cores())
        self._decoders = ThreadPoolExecutor(cores, thread_name_prefix="headstart-decode")
        self._thread = Thread(target=self._work, name="headstart-inference", daemon=True)
        self._thread.start()
        meters.watch_queue(lambda: self.images)

    @property
    def is_full(self) -> bool:
        """Whether no image more finds room."""
        return self._taken >= self._limits.queue

    @property
    def images(self) -> int:
        """Images that are decoded, wait or are being computed."""
        return self._taken

    @property
    def seconds_on_batch(self) -> float:
        """Time for which the network has been computing the batch in hand; 0 where there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    async def predict(
        self, model: Served, sources: Sequence[Source], *, deadline: float, evidence: bool = False
    ) -> list[FilePrediction | str]:
        """Return a prediction for every image, or a short reason why there is none.

        Args:
            model: What computes.
            sources: Images.
            deadline: Monotonic time after which nobody needs the result.
            evidence: Whether predictions should tell where their evidence lies.

        Raises:
            BusyError: There is no room; nothing was begun.
            TimeoutError: The deadline has passed.
        """
        if self._taken + len(sources) > self._limits.queue:
            raise BusyError
        self._taken += len(sources)
        loop = asyncio.get_running_loop()
        jobs = [_Job(model, source, deadline, evidence, loop.create_future()) for source in sources]
        for job in jobs:
            self._decoders.submit(self._prepare, job)
        waiting = [job.future for job in jobs]
        try:
            _, late = await asyncio.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if late:
                raise TimeoutError
            return [future.result() for future in waiting]
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Finish what waits, and end the threads."""
        self._decoders.shutdown(wait=True)
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _prepare(self, job: _Job) -> None:
        """Decode an image, in a thread of the pool."""
        if job.is_over:
            return self._finish([job], [_LATE])
        try:
            pixels, rule = job.source(), job.model.predictor.preprocess
            job.square, job.box = rule.square(pixels), box_in_shares(rule, pixels)
        except InputError as error:
            return self._finish([job], [str(error)])
        except Exception as error:
            _log.exception("decoding failed")
            return self._finish([job], [f"can't be decoded ({type(error).__name__})"])
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return None

    def _work(self) -> None:
        """Compute batch after batch, in a thread of its own."""
        give_way()
        while batch := self._next_batch():
            alive = [job for job in batch if not job.is_over]
            self._finish([job for job in batch if job not in alive], [_LATE] * (len(batch) - len(alive)))
            if alive:
                self._since = time.monotonic()
                found = self._computed(alive)
                self._meters.batch(len(alive), time.monotonic() - self._since)
                self._since = None
                self._finish(alive, found)

    def _next_batch(self) -> list[_Job]:
        """Return what waits for the model of the first image in the line; nothing once the line is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if not self._waiting:
                return []
            model = self._waiting[0].model
            most = self._limits.batch or model.predictor.artifact.batch_size
            batch: list[_Job] = []
            others: deque[_Job] = deque()
            while self._waiting and len(batch) < most:
                job = self._waiting.popleft()
                (batch if job.model is model else others).append(job)
            self._waiting.extendleft(reversed(others))
            return batch

    def _computed(self, jobs: list[_Job]) -> list[FilePrediction | str]:
        predictor = jobs[0].model.predictor
        try:
            # One image of which the evidence is asked for costs its neighbours in the batch next to nothing.
            boxes = [job.box for job in jobs] if any(job.evidence for job in jobs) else None
            return predictor.classify([job.square for job in jobs], boxes=boxes)
        except Exception:
            _log.exception("computing a batch of %d failed", len(jobs))
        if len(jobs) == 1:
            return [_FAILED]
        # One image alone may need less memory than all of them.
        return [found for job in jobs for found in self._computed([job])]

    def _finish(self, jobs: list[_Job], found: Sequence[FilePrediction | str]) -> None:
        """Hand results to the event loop, from any other thread."""
        if jobs:
            jobs[0].future.get_loop().call_soon_threadsafe(self._hand_over, jobs, found)

    def _hand_over(self, jobs: list[_Job], found: Sequence[FilePrediction | str]) -> None:
        self._taken -= len(jobs)
        for job, result in zip(jobs, found, strict=True):
            if not job.future.done():
                job.future.set_result(result)
