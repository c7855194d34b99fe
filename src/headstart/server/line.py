"""The line in which images wait until they are decoded and computed, in batches.

Batches grow with the load. A thread that computes takes what is waiting, up to a batch, and starts at once; what comes
meanwhile is the next batch. So an image that comes alone never waits for others. Small images are decoded by the thread
that computes them, since handing them over would take as long; large ones by a pool of threads.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread

from headstart.compute.cores import available_cores, give_way
from headstart.contracts import UInt8Image
from headstart.data.decode import MorePixelsError
from headstart.errors import InputError
from headstart.inference.judge import Box, FilePrediction, box_in_shares
from headstart.server.meters import Meters
from headstart.server.models import Served
from headstart.server.settings import Limits

_log = logging.getLogger("headstart.server")
_FAILED = "the model could not compute it"
_LATE = "not computed in time"
_SMALL, _FEW_PIXELS = 2**14, 2**18
"""Bytes and pixels of an encoded image that takes a few milliseconds to decode, and seldom more than ten."""
Found = FilePrediction | str
"""A prediction, or a short reason why there is none."""


class BusyError(Exception):
    """No room in the line; come back later."""


@dataclass(frozen=True)
class Source:
    """An image to be decoded.

    Attributes:
        decode: Called with the most pixels that it may have, which is checked before it is decoded. Raises InputError
            where it can't be decoded, and MorePixelsError where it has more.
        size: Bytes that it is decoded from.
    """

    decode: Callable[[int], UInt8Image]
    size: int


@dataclass(eq=False)
class _Order:
    """The images of one request; ``future`` has their predictions once none is ``missing``."""

    model: Served
    deadline: float
    evidence: bool
    future: asyncio.Future[list[Found]]
    found: list[Found]
    missing: int

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done() or time.monotonic() > self.deadline

    def expire(self) -> None:
        """Tell who waits that the time is over."""
        if not self.future.done():
            self.future.set_exception(TimeoutError())

    def take(self, place: int, found: Found) -> None:
        """Take the prediction for one image."""
        self.found[place] = found
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(self.found)


@dataclass(eq=False)
class _Job:
    """An image on its way from its bytes to its prediction."""

    order: _Order
    place: int
    source: Source
    square: UInt8Image | None = None
    box: Box = (0.0, 0.0, 1.0, 1.0)


class Line:
    """Images of all requests. ``predict`` belongs to the event loop; the rest may be read from any thread."""

    def __init__(self, limits: Limits, meters: Meters, *, batches: int = 1) -> None:
        """Start the threads, one for each of the batches that are computed at a time."""
        self._limits, self._meters = limits, meters
        self._taken = 0
        self._waiting: deque[_Job] = deque()
        self._changed = Condition()
        self._idle = 0
        self._stopped = False
        self._since: list[float | None] = [None] * batches
        cores = min(4, available_cores())
        self._decoders = ThreadPoolExecutor(cores, thread_name_prefix="headstart-decode")
        self._threads = [
            Thread(target=self._work, args=[number], name="headstart-inference", daemon=True)
            for number in range(batches)
        ]
        for thread in self._threads:
            thread.start()
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
        """Time for which the network has been computing a batch that is in hand; 0 where there is none."""
        begun = [since for since in self._since if since is not None]
        return time.monotonic() - min(begun) if begun else 0.0

    async def predict(
        self, model: Served, sources: Sequence[Source], *, deadline: float, evidence: bool = False
    ) -> list[Found]:
        """Return a prediction for every image, or a short reason why there is none.

        Args:
            model: What computes.
            sources: Images, at least one.
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
        order = _Order(model, deadline, evidence, loop.create_future(), [_LATE] * len(sources), len(sources))
        jobs = [_Job(order, place, source) for place, source in enumerate(sources)]
        self._put([job for job in jobs if job.source.size <= _SMALL])
        for job in jobs:
            if job.source.size > _SMALL:
                self._hand_to_decoders(job)
        clock = loop.call_later(max(0.0, deadline - time.monotonic()), order.expire)
        try:
            return await order.future
        finally:
            clock.cancel()

    def close(self) -> None:
        """Finish what waits, and end the threads; those that hang are left to themselves."""
        self._decoders.shutdown(wait=True)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(self._limits.seconds)

    def _put(self, jobs: Sequence[_Job]) -> None:
        with self._changed:
            self._waiting.extend(jobs)
            self._changed.notify(len(jobs))

    def _hand_to_decoders(self, job: _Job) -> None:
        def decode() -> None:
            self._put([job] if self._is_ready(job, self._limits.pixels) else [])

        try:
            self._decoders.submit(decode)
        except RuntimeError:  # the line is closed, but finishes what it has
            decode()

    def _is_ready(self, job: _Job, most_pixels: int) -> bool:
        """Decode an image, unless that was done; where it can't be computed, finish it and return False.

        One that has more than ``most_pixels``, but no more than are allowed, is left to the pool of threads.
        """
        order = job.order
        if order.is_over:
            self._finish([job], [_LATE])
        elif job.square is not None:
            return True
        else:
            try:
                pixels, rule = job.source.decode(most_pixels), order.model.predictor.preprocess
                job.square = rule.square(pixels)
                if order.evidence:
                    job.box = box_in_shares(rule, pixels)
                return True
            except InputError as error:
                if isinstance(error, MorePixelsError) and most_pixels < self._limits.pixels:
                    self._hand_to_decoders(job)
                else:
                    self._finish([job], [str(error)])
            except Exception as error:
                _log.exception("decoding failed")
                self._finish([job], [f"can't be decoded ({type(error).__name__})"])
        return False

    def _work(self, number: int) -> None:
        """Compute batch after batch, in a thread of its own."""
        give_way()
        while batch := self._next_batch():
            self._since[number] = time.monotonic()
            few = min(_FEW_PIXELS, self._limits.pixels)
            if ready := [job for job in batch if self._is_ready(job, few)]:
                began = time.monotonic()
                found = self._computed(ready)
                self._meters.batch(len(ready), time.monotonic() - began)
                self._finish(ready, found)
            self._since[number] = None

    def _next_batch(self) -> list[_Job]:
        """Return what waits for the model of the first image in the line; nothing once the line is closed and empty.

        Other threads that have nothing to do get their share.
        """
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            share = -(-len(self._waiting) // self._idle)
            self._idle -= 1
            if not self._waiting:
                return []
            model = self._waiting[0].order.model
            most = min(share, self._limits.batch or model.predictor.artifact.batch_size)
            batch: list[_Job] = []
            others: deque[_Job] = deque()
            while self._waiting and len(batch) < most:
                job = self._waiting.popleft()
                (batch if job.order.model is model else others).append(job)
            self._waiting.extendleft(reversed(others))
            return batch

    def _computed(self, jobs: list[_Job]) -> list[Found]:
        predictor = jobs[0].order.model.predictor
        try:
            # One image of which the evidence is asked for costs its neighbours in the batch next to nothing.
            boxes = [job.box for job in jobs] if any(job.order.evidence for job in jobs) else None
            return predictor.classify([job.square for job in jobs if job.square is not None], boxes=boxes)
        except Exception:
            _log.exception("computing a batch of %d failed", len(jobs))
        if len(jobs) == 1:
            return [_FAILED]
        # One image alone may need less memory than all of them.
        return [found for job in jobs for found in self._computed([job])]

    def _finish(self, jobs: list[_Job], found: Sequence[Found]) -> None:
        """Hand results to the event loop, from any other thread."""
        jobs[0].order.future.get_loop().call_soon_threadsafe(self._hand_over, jobs, found)

    def _hand_over(self, jobs: list[_Job], found: Sequence[Found]) -> None:
        self._taken -= len(jobs)
        for job, result in zip(jobs, found, strict=True):
            job.order.take(job.place, result)
