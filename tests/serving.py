"""A real server in a thread of the test's own process, with a classifier that tells red, green and blue apart."""

import asyncio
import contextlib
import io
import threading
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import httpx
import numpy as np
import uvicorn.server
from PIL import Image

from headstart.bundle.schema import Abstention
from headstart.contracts import ClassNames
from headstart.data.preprocess import Preprocess
from headstart.inference.artifact import Outputs
from headstart.inference.predictor import Predictor
from headstart.server.line import Line
from headstart.server.meters import Meters
from headstart.server.models import Models, Place, Served
from headstart.server.run import _listening, make_server
from headstart.server.service import Service, State
from headstart.server.settings import Access, Limits
from headstart.tasks.confidence import Confidence

LIMITS, ANYBODY = Limits(), Access()
# A server looks ten times a second whether it is to stop, which most tests would wait for.
uvicorn.server.asyncio = SimpleNamespace(**vars(asyncio) | {"sleep": lambda long: asyncio.sleep(min(long, 0.01))})
COLOURS = {"red": (220, 30, 20), "green": (20, 210, 40), "blue": (30, 20, 230)}


class ColourArtifact:
    """The class is the strongest colour, with evidence where that is; a grey image is unsure, a dark one unfamiliar."""

    class_names = ClassNames(tuple(COLOURS))
    preprocess = Preprocess(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    temperature, flip, architecture, manifest_sha256 = 1.0, False, "colours", "0" * 64
    abstention = Abstention(target=0.95, threshold=0.6, answered=100, right=95)
    confidence: Confidence | None = None
    novelty_threshold: float | None = 0.8
    batch_size, threads, has_evidence = 4, 2, True

    def __init__(self):
        self.batches = []
        self.open = threading.Event()
        """While it is cleared, computing waits."""
        self.open.set()
        self.fails = None

    def outputs(self, squares, *, evidence=False, **_):
        assert self.open.wait(20)
        self.batches.append(len(squares))
        if self.fails is not None and self.fails(squares):
            raise RuntimeError("out of memory")
        means = squares.mean(axis=(1, 2)).astype(np.float32)
        cell = squares.shape[1] // 4
        cells = squares[:, : 4 * cell, : 4 * cell].reshape(-1, 4, cell, 4, cell, 3).mean((2, 4)) if evidence else None
        maps = None if cells is None else cells[np.arange(len(means)), ..., means.argmax(axis=1)].astype(np.float32)
        return Outputs(means / 25, 1 - means.max(axis=1) / 255, evidence=maps)


def image(colour="red", form="PNG", size=(24, 20), **options):
    """An encoded image of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS.get(colour, colour)).save(file, format=form, **options)
    return file.getvalue()


def half(colour, size=(24, 20)):
    """An encoded image of which only the left half is of a colour."""
    picture, file = Image.new("RGB", size), io.BytesIO()
    picture.paste(COLOURS[colour], (0, 0, size[0] // 2, size[1]))
    picture.save(file, format="PNG")
    return file.getvalue()


class Ready(Models):
    """Models that are there already."""

    def __init__(self, **artifacts):
        self._device, self._threads, self._newest = None, None, {}
        self._served = {
            name: Served(Place(name, name), Predictor(artifact), f"{name:0<64}") for name, artifact in artifacts.items()
        }


@dataclass
class Rig:
    url: str
    artifact: ColourArtifact
    service: Service
    server: object
    thread: threading.Thread
    client: httpx.Client = field(init=False)

    def __post_init__(self):
        # Reading the certificates of authorities takes longer than most tests.
        self.client = httpx.Client(base_url=self.url, timeout=20, verify=False)

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def stop(self):
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(limits=LIMITS, access=ANYBODY, port=0, batches=1, **artifacts):
    """A server that answers at ``rig.url``."""
    artifacts = artifacts or {"colours": ColourArtifact()}
    meters, state, ready = Meters(), State(), threading.Event()
    line = Line(limits := replace(limits, draining=0.0), meters, batches=batches)
    service = Service(Ready(**artifacts), line, meters, limits, state)
    urls = []
    server = make_server(service, access, lambda url: (urls.append(url), ready.set()))
    with _listening("127.0.0.1", port) as door:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[door])))
        thread.start()
        assert ready.wait(20)
        rig = Rig(urls[0], next(iter(artifacts.values())), service, server, thread)
        try:
            yield rig
        finally:
            for artifact in artifacts.values():
                artifact.open.set()
            rig.client.close()
            rig.stop()
