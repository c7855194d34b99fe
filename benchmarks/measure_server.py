"""Measure `headstart serve` under load: speed, and whether any answer is lost or given to the wrong client.

    python benchmarks/measure_server.py MODEL                       # every part: benchmarks/results/server.json
    python benchmarks/measure_server.py MODEL --only speed          # one part; several can be named
    python benchmarks/measure_server.py MODEL --name onnx           # under another name in the record
    python benchmarks/measure_server.py MODEL --litserve FOLDER     # speed against LitServe too, installed there

    speed    requests/s and latency with 32 requests in flight, against a plain FastAPI handler that classifies one
             image a request with the same model, in turns
    same     20,000 predictions against those of the Predictor without a server; memory before and after
    excess   five times as many requests as can be answered: only 200 and 503, and how soon the 503 come
    memory   30 minutes of load: memory of the server after each minute, and by how much it grows
    crowd    10,000 connections that are opened and left idle, while others ask: what they are told, and how soon
    stop     SIGTERM in the middle of load, 20 times: requests that were sent on an open connection and not answered

Images are CIFAR-10's test images as PNG files. Requests are made by another process, over the loopback interface and
connections that are kept open, so that on a machine with two cores a part of them goes to making requests.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

RESULT = Path(__file__).parent / "results" / "server.json"
IN_FLIGHT, SECONDS, ROUNDS, STOPS, COMPARED, EXCESS = 32, 10, 3, 20, 20_000, 5
MINUTES, CROWD = 30, 10_000
PARTS = ("speed", "same", "excess", "memory", "crowd", "stop")
HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n"
PLAIN = """
import io, sys, uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image
import headstart

predictor, app = headstart.load(sys.argv[1]), FastAPI()

def classify(body):
    found = predictor.predict(Image.open(io.BytesIO(body)))
    return {"label": found.labels[0], "probability": float(found.probabilities.max())}

@app.post("/predict")
async def predict(request: Request):
    body = await request.body()
    return await run_in_threadpool(classify, body) if sys.argv[3] == "threads" else classify(body)

uvicorn.run(app, port=int(sys.argv[2]), http="httptools", log_level="warning")
"""
LITSERVE = """
import base64, io, sys
import litserve
from PIL import Image
import headstart

class Api(litserve.LitAPI):
    def setup(self, device):
        self.predictor = headstart.load(sys.argv[1])
    def decode_request(self, request):
        return Image.open(io.BytesIO(base64.b64decode(request["image"]))).convert("RGB")
    def batch(self, inputs):
        return inputs
    def predict(self, images):
        found = self.predictor.predict(images)
        return [(label, float(p.max())) for label, p in zip(found.labels, found.probabilities)]
    def unbatch(self, output):
        return output
    def encode_response(self, output):
        return {"label": output[0], "probability": output[1]}

if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=16, batch_timeout=0.005), accelerator="cpu")
    server.run(port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
"""


# The process that makes requests: told what to do as JSON on standard input, it prints what it saw as JSON.


class Visit:
    """What became of one request; ``status`` is 0 where none came back, and None where no connection was made."""

    __slots__ = ("began", "body", "image", "seconds", "status")

    def __init__(self, image: int, began: float) -> None:
        self.image, self.began = image, began
        self.status: int | None = None
        self.seconds, self.body = 0.0, b""


class Client(asyncio.Protocol):
    """One connection, which is opened again when the server closes it."""

    def __init__(self, port: int) -> None:
        self.port, self.transport = port, None
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, request: bytes, visit: Visit) -> None:
        loop = asyncio.get_running_loop()
        if self.transport is None:
            try:
                self.transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self.port)
            except OSError:
                return
        visit.status, self.got, self.waiting = 0, b"", loop.create_future()
        self.transport.write(request)
        with contextlib.suppress(OSError):
            visit.status, visit.body = await self.waiting
            visit.seconds = time.perf_counter() - visit.began

    def data_received(self, data: bytes) -> None:
        self.got += data
        head, end, body = self.got.partition(b"\r\n\r\n")
        if end and self.waiting and not self.waiting.done():
            head = head.lower()
            if len(body) == int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]):
                self.waiting.set_result((int(head[9:12]), body))
                if b"connection: close" in head:
                    self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.close()
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(OSError())

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
        self.transport = None


async def closed_loop(requests: list[bytes], plan: dict[str, Any]) -> list[Visit]:
    """Keep so many requests in flight for so long, or for so many requests."""
    visits: list[Visit] = []
    end = time.perf_counter() + plan.get("seconds", 1e9)
    count = plan.get("count", 10**9)

    async def one(client: Client) -> None:
        while time.perf_counter() < end and len(visits) < count:
            visits.append(visit := Visit(len(visits) % len(requests), time.perf_counter()))
            await client.ask(requests[visit.image], visit)
            if visit.status is None:
                return

    await asyncio.gather(*(one(Client(plan["port"])) for _ in range(plan["in_flight"])))
    return visits


async def open_loop(requests: list[bytes], plan: dict[str, Any]) -> list[Visit]:
    """Make so many requests a second, whether they are answered or not."""
    visits: list[Visit] = []
    idle: list[Client] = []
    tasks = set()

    async def one(visit: Visit) -> None:
        client = idle.pop() if idle else Client(plan["port"])
        await client.ask(requests[visit.image], visit)
        idle.append(client)

    began = time.perf_counter()
    while (now := time.perf_counter() - began) < plan["seconds"]:
        while len(visits) < now * plan["rate"]:
            # A request's time counts from when it was made: one that is made late is no fault of the server's.
            visits.append(visit := Visit(len(visits) % len(requests), time.perf_counter()))
            tasks.add(task := asyncio.create_task(one(visit)))
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return visits


def make_requests() -> None:
    plan = json.load(sys.stdin)
    images = [path.read_bytes() for path in sorted(Path(plan["images"]).iterdir())]
    bodies = [as_json(image) for image in images] if plan.get("json") else images
    requests = [HEAD.format(plan["path"], len(body)).encode() + body for body in bodies]
    if plan.get("json"):
        requests = [request.replace(b"image/png", b"application/json") for request in requests]
    loop = open_loop if "rate" in plan else closed_loop
    visits = asyncio.run(loop(requests, plan))
    rows = [
        (visit.image, visit.status, visit.seconds, visit.body.decode() if plan.get("bodies") else "")
        for visit in visits
    ]
    json.dump(rows, sys.stdout)


def as_json(image: bytes) -> bytes:
    import base64

    return json.dumps({"image": base64.b64encode(image).decode()}).encode()


def load(images: Path, port: int, **plan: Any) -> list[tuple[int, int | None, float, str]]:
    """Make requests in another process and return what became of them."""
    plan = {"images": str(images), "port": port, "path": "/predict", "in_flight": IN_FLIGHT} | plan
    done = subprocess.run(
        [sys.executable, __file__, "--make-requests"],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(row) for row in json.loads(done.stdout)]


def start_load(plan: dict[str, Any]) -> subprocess.Popen[str]:
    """Make requests in another process, which prints what became of them."""
    maker = subprocess.Popen(
        [sys.executable, __file__, "--make-requests"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    maker.stdin.write(json.dumps(plan))
    maker.stdin.close()
    return maker


# Servers.


class Served:
    """A server in a process of its own."""

    def __init__(self, words: list[str], port: int | None = None, **environment: str) -> None:
        self.process = subprocess.Popen(
            words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | environment
        )
        self.port = port or self._told_port()
        while port:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)

    def _told_port(self) -> int:
        for line in self.process.stderr:
            if line.startswith("{") and (event := json.loads(line))["event"] == "started":
                return int(event["url"].rpartition(":")[2])
        raise SystemExit("the server did not start")

    def memory(self) -> float:
        return round(psutil.Process(self.process.pid).memory_info().rss / 1e6, 1)

    def stop(self) -> int:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.terminate()
        self.process.terminate()
        self.process.stderr.close()
        return self.process.wait(30)


def headstart_server(model: Path, *options: str) -> Served:
    return Served([sys.executable, "-m", "headstart", "serve", str(model), "--port", "0", "--quiet", *options])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def other_server(script: str, model: Path, *words: str, **environment: str) -> Served:
    port = free_port()
    place = Path(tempfile.mkdtemp()) / "server.py"
    place.write_text(script)
    return Served([sys.executable, str(place), str(model), str(port), *words], port, **environment)


# What is measured.


def figures(rows: list[Any]) -> dict[str, Any]:
    seconds = sorted(row[2] for row in rows if row[1] == 200)
    wall = SECONDS
    return {
        "requests_per_second": round(len(seconds) / wall, 1),
        "p50_ms": round(1000 * statistics.median(seconds), 1),
        "p95_ms": round(1000 * seconds[int(0.95 * len(seconds))], 1),
        "errors": sum(row[1] != 200 for row in rows),
    }


def speed(model: Path, images: Path, litserve: str | None) -> dict[str, Any]:
    """Return the medians of rounds in which the servers take turns."""
    makers: dict[str, Any] = {
        "headstart": lambda: headstart_server(model),
        "plain_threads": lambda: other_server(PLAIN, model, "threads"),
        "plain_blocking": lambda: other_server(PLAIN, model, "blocking"),
    }
    if litserve:
        makers["litserve"] = lambda: other_server(LITSERVE, model, PYTHONPATH=f"{os.environ['PYTHONPATH']}:{litserve}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            server = make()
            plan = {"json": True} if name == "litserve" else {}
            load(images, server.port, seconds=2, **plan)
            found[name].append(figures(load(images, server.port, seconds=SECONDS, **plan)))
            server.stop()
            print(name, found[name][-1], flush=True)
    medians = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    rates = {name: one["requests_per_second"] for name, one in medians.items()}
    best_plain = max(rates["plain_threads"], rates["plain_blocking"])
    medians["ratio_to_plain"] = round(rates["headstart"] / best_plain, 2)
    if litserve:
        medians["ratio_to_litserve"] = round(rates["headstart"] / rates["litserve"], 2)
    return {**medians, "in_flight": IN_FLIGHT, "seconds": SECONDS, "rounds": ROUNDS}


def same(model: Path, images: Path, _: str | None) -> dict[str, Any]:
    """Return how many of many predictions were another image's, or none."""
    import headstart

    names = sorted(images.iterdir())
    offline = headstart.load(model).predict(names)
    server = headstart_server(model)
    load(images, server.port, count=200)
    before = server.memory()
    rows = load(images, server.port, count=COMPARED, bodies=True)
    after = server.memory()
    server.stop()
    swapped, largest = 0, 0.0
    for image, status, _seconds, body in rows:
        if status != 200:
            continue
        (found,) = json.loads(body)["predictions"]
        wanted = offline.probabilities[image]
        largest = max(largest, abs(found["probability"] - float(wanted.max())))
        tie = float(np.sort(wanted)[-1] - np.sort(wanted)[-2]) < 1e-4
        swapped += (found["label"] != offline.labels[image] and not tie) or abs(
            found["probability"] - float(wanted.max())
        ) > 1e-3
    return {
        "responses": len(rows),
        "swapped": swapped,
        "lost": sum(row[1] != 200 for row in rows),
        "largest_difference_of_probability": largest,
        "memory_mb_before": before,
        "memory_mb_after": after,
    }


def excess(model: Path, images: Path, _: str | None) -> dict[str, Any]:
    """Return what became of requests that come five times as fast as they can be answered."""
    server = headstart_server(model)
    load(images, server.port, seconds=2)
    capacity = figures(load(images, server.port, seconds=SECONDS))["requests_per_second"]
    rows = load(images, server.port, seconds=SECONDS, rate=EXCESS * capacity)
    well = figures(load(images, server.port, seconds=SECONDS))
    server.stop()
    refused = sorted(1000 * row[2] for row in rows if row[1] == 503)
    return {
        "capacity_requests_per_second": capacity,
        "offered_requests_per_second": round(len(rows) / SECONDS, 1),
        "statuses": {str(status): sum(row[1] == status for row in rows) for status in {row[1] for row in rows}},
        "refused_ms": {
            "p50": round(statistics.median(refused), 1),
            "p95": round(refused[int(0.95 * len(refused))], 1),
            "p99": round(refused[int(0.99 * len(refused))], 1),
            "most": round(refused[-1], 1),
        },
        "answered": figures(rows),
        "afterwards": well,
    }


def memory(model: Path, images: Path, _: str | None) -> dict[str, Any]:
    """Return the memory of a server after each minute of load; growth counts once the first third has filled pools."""
    server = headstart_server(model)
    load(images, server.port, seconds=SECONDS)
    readings, answered, failed = [server.memory()], 0, 0
    for minute in range(MINUTES):
        path = "/predict?evidence=true" if minute % 4 == 3 and has_evidence(server) else "/predict"
        statuses = [row[1] for row in load(images, server.port, seconds=60, path=path)]
        answered += statuses.count(200)
        failed += len(statuses) - statuses.count(200)
        readings.append(server.memory())
        print("minute", minute + 1, readings[-1], "MB", flush=True)
    server.stop()
    later = readings[MINUTES // 3 :]
    half = len(later) // 2
    return {
        "minutes": MINUTES,
        "answered": answered,
        "failed": failed,
        "mb_each_minute": readings,
        "grown_mb": round(statistics.median(later[half:]) - statistics.median(later[:half]), 1),
        "most_mb": max(readings),
    }


def has_evidence(server: Served) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/models") as answer:
        return bool(json.load(answer)["models"][0]["evidence"])


def crowd(model: Path, images: Path, _: str | None) -> dict[str, Any]:
    """Return what becomes of idle connections beyond those that are allowed, and of clients that are there already."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    server = headstart_server(model)
    load(images, server.port, seconds=2)
    before = server.memory()
    plan = {"images": str(images), "port": server.port, "path": "/predict", "in_flight": IN_FLIGHT, "seconds": SECONDS}
    maker = start_load(plan)
    time.sleep(2)
    began, doors, refused, unanswered = time.perf_counter(), [], 0, 0
    for _number in range(CROWD):
        door = socket.socket()
        door.settimeout(5)
        try:
            door.connect(("127.0.0.1", server.port))
        except OSError:
            unanswered += 1
        doors.append(door)
    opened = time.perf_counter() - began
    open_at_once = len(psutil.Process(server.process.pid).net_connections())
    for door in doors:
        door.settimeout(0.01)
        with contextlib.suppress(OSError):
            refused += door.recv(100).startswith(b"HTTP/1.1 503")
    rows = json.loads(maker.stdout.read())
    for door in doors:
        door.close()
    time.sleep(1)
    well = figures(load(images, server.port, seconds=SECONDS))
    after = server.memory()
    server.stop()
    return {
        "connections": CROWD,
        "seconds_to_open": round(opened, 1),
        "not_connected": unanswered,
        "refused_with_503": refused,
        "open_at_once": open_at_once,
        "meanwhile": figures(rows),
        "afterwards": well,
        "memory_mb_before": before,
        "memory_mb_after": after,
    }


def stop(model: Path, images: Path, _: str | None) -> dict[str, Any]:
    """Return how many requests were lost when the server was told to stop in the middle of load."""
    lost, answered, statuses, took = 0, 0, set(), []
    for number in range(STOPS):
        server = headstart_server(model)
        plan = {"images": str(images), "port": server.port, "path": "/predict", "in_flight": IN_FLIGHT, "seconds": 20}
        maker = start_load(plan)
        time.sleep(1.5 + random.Random(number).random())
        began = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        rows = json.loads(maker.stdout.read())
        maker.wait()
        statuses.add(server.process.wait(30))
        took.append(round(time.perf_counter() - began, 2))
        lost += sum(row[1] not in (200, None) for row in rows)
        answered += sum(row[1] == 200 for row in rows)
        print(number, "answered", answered, "lost", lost, flush=True)
    return {
        "stops": STOPS,
        "answered": answered,
        "lost": lost,
        "exit_statuses": sorted(statuses),
        "longest_stop_seconds": max(took),
    }


def write_images(folder: Path) -> None:
    from headstart.data.dataset import load_dataset

    for number, image in enumerate(load_dataset("cifar10").train.source.array[:10_000]):
        file = BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        (folder / f"{number:05d}.png").write_bytes(file.getvalue())


def facts(model: Path) -> dict[str, Any]:
    import torch

    from headstart.compute.device import describe_hardware

    inner = model if (model / "config.json").is_file() else model / "model"
    names = ("headstart", "torch", "onnxruntime", "fastapi", "uvicorn", "pillow")
    predictor = __import__("headstart").load(model)
    return {
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": {name: version(name) for name in names},
        "runs_on": "onnxruntime" if (inner / "model.onnx").is_file() else "torch",
        "architecture": predictor.artifact.architecture,
        "size": predictor.preprocess.size,
        "flip": predictor.artifact.flip,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--name", default="torch")
    parser.add_argument("--litserve", metavar="FOLDER")
    given = parser.parse_args()
    parts = {"speed": speed, "same": same, "excess": excess, "memory": memory, "crowd": crowd, "stop": stop}
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch))
        for name in given.only:
            found = parts[name](given.model, Path(scratch), given.litserve)
            print(json.dumps(found, indent=2))
            record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
            record["claim"] = "headstart serve under load, with CIFAR-10 images of 32 x 32 pixels as PNG files"
            record["command"] = "python benchmarks/measure_server.py MODEL --name NAME"
            record.setdefault(given.name, {}).update(facts(given.model) | {name: found})
            RESULT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--make-requests"]:
        make_requests()
    else:
        main()
