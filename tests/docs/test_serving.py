"""What docs/serving.md and deploy/ tell people to type and to start works with the server as it is."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from fences import FENCE, LINK, commands

from headstart.cli import app
from serving import ColourArtifact, image, serving

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8000"
SERVE = typer.main.get_command(app).commands["serve"]


def accepted(words):
    return SERVE.make_context("serve", words).params


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, colour in (("cat", "red"), ("dog", "blue")):
        Path(f"{name}.jpg").write_bytes(image(colour, "JPEG"))
    with serving(quickstart=ColourArtifact()) as running:
        yield running


def fences(language):
    return [fence for kind, fence in FENCE.findall(GUIDE) if kind == language]


def test_its_commands_are_accepted():
    lines = commands(GUIDE)
    assert len(lines) == 3
    for line in lines:
        assert accepted(shlex.split(line)[2:])["models"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_its_requests_with_curl(rig):
    lines = [line for fence in fences("bash") for line in fence.splitlines() if line.startswith("curl")]
    assert len(lines) == 2
    found = [subprocess.run(shlex.split(line.replace(URL, rig.url)), capture_output=True).stdout for line in lines]
    assert b'"label":"red"' in found[0]
    assert found[1].count(b'"label"') == 2


def test_its_requests_in_python(rig, capsys):
    for fence in fences("python"):
        place = {}
        exec(fence.replace(URL, rig.url).replace("127.0.0.1:8000", f"127.0.0.1:{rig.port}"), place)
        if "client" in place:
            assert place["labels"].tolist() == [b"red"]
            place["client"].close()
    assert capsys.readouterr().out.startswith("red 0.99")


@pytest.mark.npm
def test_its_request_in_javascript(rig):
    (script,) = fences("javascript")
    Path("ask.mjs").write_text(script.replace(URL, rig.url))
    done = subprocess.run(["node", "ask.mjs"], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("red 0.99"), done.stderr


def test_its_paths_and_its_figures_are_the_servers(rig):
    for path in re.findall(r"`GET (/\w+)`", GUIDE):
        assert rig.client.get(path).status_code == 200
    rig.client.post("/predict", content=image(), headers={"Content-Type": "image/png"})
    text = rig.client.get("/metrics").text
    for name in re.findall(r"headstart_\w+_total", GUIDE):
        assert name in text


def test_its_links_lead_somewhere():
    links = LINK.findall(GUIDE)
    assert len([link for link in links if link.startswith("../deploy/")]) == 4
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_the_container_and_what_starts_it():
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["headstart", "serve"]' in dockerfile
    assert "\nUSER 10001\n" in dockerfile
    (words,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert accepted(yaml.safe_load(words))["host"] == "0.0.0.0"
    service = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]["headstart"]
    assert accepted(service["command"])["token_file"] == Path("/run/secrets/token")
    assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_unit_for_systemd():
    unit = (ROOT / "deploy" / "headstart.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert accepted(shlex.split(line)[2:])["models"] == ["/srv/headstart/model"]
    analyze = shutil.which("systemd-analyze")
    if analyze and Path("/opt/headstart/bin/headstart").exists():
        assert subprocess.run([analyze, "verify", str(ROOT / "deploy" / "headstart.service")]).returncode == 0


def test_the_probes_of_kubernetes_are_answered(rig):
    deployment, service = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = accepted(container["args"])
    assert service["metadata"]["name"] in given["allow_host"]
    # It must not be killed while it finishes what it accepted.
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > 5 + given["deadline"] + 20
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert rig.client.get(path, headers={"Host": "10.1.2.3:8000"}).status_code == 200
