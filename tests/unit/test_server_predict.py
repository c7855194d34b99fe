"""POST /predict of a running server: every image gets its own prediction, and every bad request an answer."""

import contextlib
import io
import math
import re
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from fastapi.routing import APIRoute
from PIL import Image

from headstart.contracts import ClassNames
from headstart.data.decode import decode_bytes
from headstart.errors import InputError
from headstart.inference.judge import FilePrediction
from headstart.server import bodies
from headstart.server.line import _SMALL
from headstart.server.meters import MOST_LABELS, Meters
from headstart.server.pages import page_paths
from headstart.server.settings import Access, Limits, read_access
from headstart.tasks.confidence import Confidence
from serving import COLOURS, ColourArtifact, Ready, half, image, serving

TOKEN = "a-token-of-some-length"
JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def rig():
    limits = Limits(files=8, body=200_000, pixels=1_000_000, seconds=5)
    with serving(limits, colours=ColourArtifact(), other=ColourArtifact()) as running:
        yield running


def send(rig, content, **options):
    return rig.client.post("/predict", content=content, headers=JPEG, **options)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_one_image_as_the_body(rig, form):
    answer = send(rig, image("blue", form))
    assert answer.status_code == 200
    body = answer.json()
    assert body["model"] == f"{'colours':0<64}"
    (found,) = body["predictions"]
    assert (found["file"], found["label"], found["unsure"], found["unfamiliar"]) == ("image", "blue", False, False)
    assert found["probability"] == pytest.approx(1, abs=0.01)
    assert [name for name, _ in found["top"]] == ["blue", "red", "green"]
    assert found["top"][0][1] == found["probability"]
    assert found["novelty"] == pytest.approx(1 - 230 / 255, abs=0.02)


def test_several_files_with_a_bad_one_among_them(rig):
    files = [("file", ("a.png", image("red"))), ("b", ("b.txt", b"text")), ("c", ("ü/c.jpg", image("green", "JPEG")))]
    answer = rig.client.post("/predict?top=1", files=files)
    assert answer.status_code == 200
    first, bad, last = answer.json()["predictions"]
    assert (first["file"], first["label"], len(first["top"])) == ("a.png", "red", 1)
    assert set(bad) == {"file", "error"}
    assert bad["file"] == "b.txt"
    assert "not an image" in bad["error"]
    assert (last["file"], last["label"]) == ("ü/c.jpg", "green")


def test_doubts_are_told(rig):
    grey, dark = rig.client.post(
        "/predict", files=[("f", ("grey.png", image((128, 130, 128)))), ("f", ("dark.png", image((3, 2, 1))))]
    ).json()["predictions"]
    assert (grey["unsure"], grey["unfamiliar"], dark["unfamiliar"]) == (True, False, True)


def test_many_at_once_are_never_swapped_and_share_batches(rig):
    names = [list(COLOURS)[n % 3] for n in range(90)]
    rig.artifact.batches.clear()
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda name: send(rig, image(name)).json()["predictions"][0]["label"], names))
    assert found == names
    assert max(rig.artifact.batches) > 1
    assert sum(rig.artifact.batches) == 90
    assert max(rig.artifact.batches) <= 4


def test_two_threads_share_what_comes_at_once():
    with serving(batches=2) as rig, ThreadPoolExecutor(1) as pool:
        rig.artifact.open.clear()
        files = [("f", (f"{n}.png", image(name))) for n, name in enumerate(["red", "green", "blue", "green"])]
        waiting = pool.submit(rig.client.post, "/predict", files=files)
        while rig.service.line.images < 4 or rig.service.line._waiting:
            time.sleep(0.01)
        rig.artifact.open.set()
        labels = [found["label"] for found in waiting.result().json()["predictions"]]
    assert (labels, rig.artifact.batches) == (["red", "green", "blue", "green"], [2, 2])


def test_small_files_and_large_ones_which_are_decoded_elsewhere_stay_in_order(rig):
    file, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 60, (120, 120, 3), dtype=np.uint8)
    Image.fromarray(noise + np.array([0, 0, 190], np.uint8)).save(file, format="PNG")
    assert file.tell() > _SMALL
    contents = [image("red"), file.getvalue(), image("green"), file.getvalue()[:-9000]]
    answer = rig.client.post("/predict", files=[("f", (f"{n}.png", content)) for n, content in enumerate(contents)])
    assert [found.get("label", "none") for found in answer.json()["predictions"]] == ["red", "blue", "green", "none"]


def test_a_small_file_with_many_pixels_is_decoded_elsewhere(rig, monkeypatch):
    threads = []

    def decode(content, **options):
        pixels = decode_bytes(content, **options)
        threads.append(threading.current_thread().name.rpartition("_")[0] or "computes")
        return pixels

    monkeypatch.setattr(bodies, "decode_bytes", decode)
    monkeypatch.setattr("headstart.server.line._FEW_PIXELS", 500)
    files = [("f", ("a.png", image("green", size=size))) for size in ((40, 40), (20, 20))]
    answer = rig.client.post("/predict", files=files)
    assert [found["label"] for found in answer.json()["predictions"]] == ["green", "green"]
    assert sorted(threads) == ["computes", "headstart-decode"]


def test_parameters_left_out_have_their_defaults(rig):
    told = send(rig, image("green")).json()
    assert told == send(rig, image("green"), params={"top": 5, "evidence": False, "model": "colours"}).json()


def test_another_model_by_name(rig):
    answer = send(rig, image(), params={"model": "other"})
    assert answer.json()["model"] == f"{'other':0<64}"
    answer = send(rig, image(), params={"model": "none"})
    assert answer.status_code == 404
    assert "colours, other" in answer.json()["error"]
    assert [model["name"] for model in rig.client.get("/models").json()["models"]] == ["colours", "other"]
    assert rig.client.get("/models").json()["models"][0]["classes"] == list(COLOURS)


def test_where_the_evidence_lay_is_told_on_request(rig):
    answer = rig.client.post("/predict?evidence=true", content=half("blue"), headers=JPEG).json()
    found = answer["predictions"][0]["evidence"]
    np.testing.assert_allclose(found["grid"], [[1, 1, 0, 0]] * 4, atol=0.1)
    assert found["box"] == pytest.approx([0, 2 / 24, 1, 20 / 24])
    for query in ("", "?evidence=false"):
        answer = rig.client.post(f"/predict{query}", content=half("blue"), headers=JPEG)
        assert "evidence" not in answer.json()["predictions"][0]
    assert rig.client.post("/predict?evidence=much", content=half("blue"), headers=JPEG).status_code == 422
    assert rig.client.post("/predict?evidence=1", files=[("f", ("a", b"x"))]).status_code == 422


def test_evidence_reaches_only_those_who_ask():
    with serving() as rig, ThreadPoolExecutor(6) as pool:
        rig.artifact.open.clear()
        queries = ["?evidence=true" if n % 2 else "" for n in range(6)]
        waiting = [
            pool.submit(rig.client.post, f"/predict{query}", content=image("red"), headers=JPEG) for query in queries
        ]
        while rig.service.line.images < 6:
            time.sleep(0.01)
        rig.artifact.open.set()
        told = ["evidence" in done.result().json()["predictions"][0] for done in waiting]
    assert told == [False, True] * 3


def test_a_model_without_evidence_says_so():
    artifact = ColourArtifact()
    artifact.has_evidence = False
    with serving(colours=artifact) as rig:
        answer = rig.client.post("/predict?evidence=true", content=image(), headers=JPEG)
        assert answer.status_code == 422
        assert "can't show where the evidence lay" in answer.json()["error"]
        assert rig.client.get("/models").json()["models"][0]["evidence"] is False


def big(pixels):
    file = io.BytesIO()
    Image.new("1", (pixels, 1001)).save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (b"", 422, "empty"),
        (b"no image at all", 422, "not an image"),
        (image("red", "JPEG", (400, 400))[:300], 422, "damaged"),
        (image("red", "PNG", (400, 400))[:60], 422, "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 422, "not an image"),
        (big(1000), 422, "1,000,000 pixels"),
        (bytes(200_001), 413, "MiB"),
    ],
)
def test_a_bad_body_is_told(rig, content, status, word):
    answer = send(rig, content)
    assert answer.status_code == status
    assert word in answer.json()["error"]


def test_a_body_without_end_is_cut_off(rig):
    def endless():
        while True:
            yield bytes(10_000)

    # The server answers, takes a small rest, and then closes the connection while more is being sent.
    with contextlib.suppress(httpx.TransportError):
        assert rig.client.post("/predict", content=endless(), headers=JPEG).status_code == 413
    assert send(rig, image()).status_code == 200


def test_clients_that_send_everything_first_see_why_it_was_too_much():
    with serving() as rig:
        content, url = bytes(34_000_000), f"{rig.url}/predict"
        for _ in range(2):
            assert rig.client.post(url, content=content, headers=JPEG).status_code == 413
        # This one says that the connection ends with the response.
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(urllib.request.Request(url, content, JPEG))


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/x-www-form-urlencoded", "image"])
def test_other_content_types_are_told_what_to_send(rig, kind):
    answer = rig.client.post("/predict", content=image(), headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert "image/jpeg" in answer.json()["error"]


def test_compressed_bodies_are_refused(rig):
    answer = rig.client.post("/predict", content=image(), headers=JPEG | {"Content-Encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("kind", "content", "word"),
    [
        ("multipart/form-data", b"--x", "form"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\nab",
            "cut",
        ),
        ("multipart/form-data; boundary=x", b"nothing", "form"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nab\r\n--x--\r\n", "form"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", "no file"),
        ("multipart/form-data; boundary=" + "x" * 300, b"--x--\r\n", "form"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=field\r\n\r\nab\r\n--x--\r\n",
            "no file",
        ),
    ],
)
def test_damaged_forms_are_told(rig, kind, content, word):
    answer = rig.client.post("/predict", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert word in answer.json()["error"]


def test_a_file_without_a_plain_name_is_taken(rig):
    part = b"--x\r\nContent-Disposition: form-data; name=f%b\r\n\r\n" + image() + b"\r\n"
    content = part % b"; filename*=UTF-8''%C3%BC.png" + part % b"\r\nContent-Type: image/png" + b"--x--\r\n"
    answer = rig.client.post("/predict", content=content, headers={"Content-Type": "multipart/form-data; boundary=x"})
    found = answer.json()["predictions"]
    assert [(one["file"], one["label"]) for one in found] == [("\u00fc.png", "red"), ("file 2", "red")]


def test_too_many_files_are_refused(rig):
    answer = rig.client.post("/predict", files=[("f", (f"{n}.png", image())) for n in range(9)])
    assert answer.status_code == 413
    assert "8 files" in answer.json()["error"]
    answer = rig.client.post("/predict", files={"f": image()}, data={f"field {n}": "x" for n in range(9)})
    assert answer.status_code == 413
    assert "8 fields" in answer.json()["error"]


def test_a_parameter_that_does_not_exist_is_told(rig):
    answer = send(rig, image(), params={"modle": "other"})
    assert answer.status_code == 422
    assert answer.json()["error"] == (
        "There is no parameter 'modle'. Did you mean 'model'? Parameters: model, top, evidence."
    )


@pytest.mark.parametrize("path", ["/", "/healthz", "/v2/health/live", "/v2/health/ready", "/static/page.js", "/nope"])
def test_head_is_answered_like_get_without_the_body(rig, path):
    head, answer = rig.client.head(path), rig.client.get(path)
    assert (head.status_code, head.headers["content-length"]) == (answer.status_code, str(len(answer.content)))
    assert head.content == b""


@pytest.mark.parametrize("top", ["0", "-1", "x", "1001", "1e3"])
def test_a_wrong_parameter_is_told(rig, top):
    answer = send(rig, image(), params={"top": top})
    assert answer.status_code == 422
    assert "top" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/nope", "/predict/", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/%00", "/v2/%ff"]
)
def test_other_paths_are_not_found(rig, path):
    answer = rig.client.get(path)
    assert answer.status_code == 404
    assert "error" in answer.json()


def test_other_methods_are_told_what_is_allowed(rig):
    answer = rig.client.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert all(word in answer.json()["error"] for word in ("/predict takes POST, not GET", "curl", "image/jpeg"))
    assert rig.client.delete("/models").json()["error"] == "/models takes GET, not DELETE."


@pytest.mark.parametrize("query", ["", "?top=1"])
def test_what_nobody_foresaw_is_an_error_as_json_too(rig, monkeypatch, query):
    monkeypatch.setattr(Meters, "prediction", lambda *_: 1 / 0)
    answer = rig.client.post(f"/predict{query}", content=image(), headers=JPEG)
    assert (answer.status_code, set(answer.json())) == (500, {"error"})


def test_every_response_has_headers_that_protect_it(rig):
    for answer in (
        rig.client.get("/models"),
        rig.client.get("/nope"),
        rig.client.get("/", headers={"Host": "evil.org"}),
    ):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.headers["x-request-id"]) == 16
    assert rig.client.get("/models", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert rig.client.get("/models", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:80", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("10.0.0.7", 200),
        ("images.example.org", 200),
        ("evil.org", 421),
        ("127.0.0.1.evil.org", 421),
        ("localhost.evil.org", 421),
        ("a b", 421),
        ("", 421),
    ],
)
def test_only_known_hosts_are_served(host, status):
    with serving(access=Access(hosts=frozenset({"images.example.org"}))) as rig:
        assert rig.client.get("/models", headers={"Host": host}).status_code == status


def test_pages_of_other_origins_are_refused(rig):
    for origin in ("http://evil.org", "null", f"https://127.0.0.1:{rig.port}0", "http://127.0.0.1:1", "file://"):
        assert send(rig, image()).status_code == 200
        answer = rig.client.post("/predict", content=image(), headers=JPEG | {"Origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    for origins, status in (([rig.url], 200), (["http://evil.org", rig.url], 403)):
        headers = [*JPEG.items(), *[("Origin", origin) for origin in origins]]
        assert rig.client.post("/predict", content=image(), headers=headers).status_code == status


def test_the_token_is_asked_for():
    with serving(access=Access(token=TOKEN)) as rig:
        assert send(rig, image()).status_code == 401
        for given in ("", "Bearer", "Bearer wrong", TOKEN, f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer é"):
            answer = rig.client.get("/models", headers={"Authorization": given.encode("latin-1")})
            assert answer.status_code == 401, given
            assert answer.headers["www-authenticate"] == "Bearer"
        for scheme in ("Bearer", "bearer"):
            assert rig.client.get("/models", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200
        assert rig.client.get("/metrics").status_code == 401
        assert rig.client.get("/v2/models/secret/ready").status_code == 401
        figures = rig.client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
        for route in ("/predict", "/metrics", "/v2/models/{name}/ready"):
            assert f'requests_total{{route="{route}",status="401"}} 1.0' in figures
        assert rig.client.get("/healthz").status_code == 200


def test_a_full_line_refuses_at_once_and_recovers():
    with serving(Limits(queue=3, seconds=10)) as rig, ThreadPoolExecutor(3) as pool:
        rig.artifact.open.clear()
        waiting = [pool.submit(send, rig, image("green")) for _ in range(3)]
        while rig.service.line.images < 3:
            time.sleep(0.01)
        began = time.monotonic()
        answer = send(rig, image())
        assert time.monotonic() - began < 0.5
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "headstart_queue_images 3.0" in rig.client.get("/metrics").text
        rig.artifact.open.set()
        assert [done.result().status_code for done in waiting] == [200, 200, 200]
        assert send(rig, image()).status_code == 200


def test_what_is_not_computed_in_time_is_told_and_dropped():
    with serving(Limits(seconds=0.2)) as rig:
        rig.artifact.open.clear()
        assert send(rig, image()).status_code == 504
        assert send(rig, image()).status_code == 504
        rig.artifact.open.set()
        assert send(rig, image()).status_code == 200
        # The first was being computed when its time was over; the second was never begun.
        assert rig.artifact.batches == [1, 1]
        assert rig.service.line.images == 0


def test_an_image_that_breaks_the_model_does_not_break_its_neighbours(caplog):
    artifact = ColourArtifact()
    artifact.fails = lambda squares: (squares[..., 2] > 200).any()
    with serving(colours=artifact) as rig:
        answer = rig.client.post("/predict", files=[("f", (f"{name}.png", image(name))) for name in COLOURS])
        red, green, blue = answer.json()["predictions"]
        assert (answer.status_code, red["label"], green["label"]) == (200, "red", "green")
        assert "could not compute" in blue["error"]


def test_figures_for_prometheus():
    with serving() as rig:
        send(rig, image("red"))
        rig.client.post("/predict", files=[("f", ("a.png", image((9, 9, 9)))), ("f", ("b.png", b"x"))])
        rig.client.get("/nope")
        text = rig.client.get("/metrics").text
    for line in (
        'headstart_requests_total{route="/predict",status="200"} 2.0',
        'headstart_requests_total{route="(none)",status="404"} 1.0',
        'headstart_predictions_total{label="red",model="colours"} 2.0',
        'headstart_unsure_predictions_total{model="colours"} 1.0',
        'headstart_unfamiliar_images_total{model="colours"} 1.0',
        'headstart_failed_images_total{model="colours"} 1.0',
        "headstart_batch_images_count 2.0",
        "headstart_queue_images 0.0",
    ):
        assert line in text.splitlines()


def test_drift_of_confidence_is_told_once_there_are_enough_predictions():
    artifact, meters = ColourArtifact(), Meters()
    artifact.confidence = Confidence(edges=[0.5, 0.9], counts=[40, 60, 100])
    served = Ready(colours=artifact).find("colours")

    def drift(probabilities):
        for probability in probabilities:
            meters.prediction(served, FilePrediction("red", probability, (("red", probability),)))
        return float(re.search(r"confidence_drift\{.*\} (\S+)", meters.text().decode())[1])

    assert math.isnan(drift([0.95] * 199))
    assert drift([0.95]) > 1
    assert drift([0.4, 0.4, 0.7, 0.7, 0.7, 0.95, 0.95, 0.95, 0.95, 0.95] * 100) < 0.01
    artifact.confidence = None
    assert math.isnan(drift([0.95] * 200))


def test_a_server_that_is_stuck_says_so_until_it_is_not(monkeypatch):
    monkeypatch.setattr("headstart.server.app._STALLED", 0.02)
    with serving() as rig, ThreadPoolExecutor(1) as pool:
        assert (rig.client.get("/healthz").status_code, rig.client.get("/healthz").json()) == (200, {"status": "ok"})
        rig.artifact.open.clear()
        waiting = pool.submit(send, rig, image())
        while (answer := rig.client.get("/healthz")).status_code == 200:
            assert not waiting.done()
        assert (answer.status_code, answer.json()) == (503, {"status": "stuck"})
        rig.artifact.open.set()
        assert waiting.result().status_code == 200
        while rig.client.get("/healthz").status_code == 503:  # the response may be there before the batch is over
            time.sleep(0.005)


def test_a_request_is_found_in_the_log_by_its_id(rig, caplog):
    with caplog.at_level("INFO", "headstart.server.requests"):
        rig.client.get("/models", headers={"X-Request-ID": "mine-1"})
        own = rig.client.get("/nope").headers["x-request-id"]
        rig.client.get("/healthz")
    while len(caplog.records) < 2:  # a response may be there before its line
        time.sleep(0.005)
    told = [(record.facts["id"], record.facts["path"], record.facts["status"]) for record in caplog.records]
    assert told == [("mine-1", "/models", 200), (own, "/nope", 404)]


def test_the_token_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("HEADSTART_TOKEN", raising=False)
    assert read_access(None, []).token is None
    monkeypatch.setenv("HEADSTART_TOKEN", TOKEN)
    assert read_access(None, []) == Access(token=TOKEN)
    (tmp_path / "token").write_text("another-of-some-length\n")
    assert read_access(tmp_path / "token", []).token == "another-of-some-length"
    monkeypatch.setenv("HEADSTART_TOKEN", "short")
    with pytest.raises(InputError, match="The token in HEADSTART_TOKEN must have 8"):
        read_access(None, [])


def test_classes_beyond_the_hundredth_share_a_time_series():
    artifact, meters = ColourArtifact(), Meters()
    artifact.class_names = ClassNames(tuple(f"class {n}" for n in range(MOST_LABELS + 5)))
    served = Ready(colours=artifact).find("colours")
    for label in artifact.class_names:
        meters.prediction(served, FilePrediction(label, 0.9, ((label, 0.9),)))
    found = dict(re.findall(r'headstart_predictions_total\{label="(.*?)",.*\} (\S+)', meters.text().decode()))
    assert found.pop("(other)") == "5.0"
    assert found == dict.fromkeys(list(artifact.class_names)[:MOST_LABELS], "1.0")


def test_stopping_finishes_what_was_accepted():
    with serving() as rig, ThreadPoolExecutor(2) as pool:
        rig.artifact.open.clear()
        waiting = [pool.submit(send, rig, image("green")) for _ in range(2)]
        while rig.service.line.images < 2:
            time.sleep(0.01)
        rig.server.should_exit = True
        time.sleep(0.3)
        assert rig.thread.is_alive()
        rig.artifact.open.set()
        answers = [done.result() for done in waiting]
        assert [answer.json()["predictions"][0]["label"] for answer in answers] == ["green", "green"]
        rig.thread.join(10)
        assert not rig.thread.is_alive()
        assert not any(thread.is_alive() for thread in rig.service.line._threads)


def test_a_model_that_computes_no_numbers_is_refused(tmp_path, monkeypatch):
    from headstart.errors import BundleError
    from headstart.inference.predictor import Predictor
    from headstart.server import models

    broken = ColourArtifact()
    broken.outputs = lambda squares, **_: ColourArtifact.outputs(broken, squares)._replace(
        logits=np.full((len(squares), 3), np.nan, np.float32)
    )
    monkeypatch.setattr(models, "load", lambda *_, **__: Predictor(broken))
    with pytest.raises(BundleError, match="not finite"):
        models.Models(models.places([str(tmp_path)]), device=None, threads=None)


@pytest.mark.parametrize("path", ["/", "/docs", "/static/page.js", "/static/page.css", "/openapi.json"])
def test_pages_load_nothing_from_elsewhere(rig, path):
    answer = rig.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    assert "https://" not in answer.text
    assert "<script>" not in answer.text
    assert "style=" not in answer.text
    if path.startswith("/static"):
        again = rig.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_no_version_of_fastapi_drops_a_path_of_the_pages():
    assert {type(route) for route in page_paths().routes} == {APIRoute}  # early ones include nothing else


@pytest.mark.parametrize("path", ["/static/", "/static/none", "/static/%2e%2e/app.py", "/static/..%2fapp.py"])
def test_no_other_file_is_served(rig, path):
    assert rig.client.get(path).status_code == 404
