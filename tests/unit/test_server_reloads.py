"""Models are loaded again while the old ones answer, whatever hangs."""

import asyncio
import time
from threading import Event

import pytest

from headstart.errors import BundleError
from headstart.server.meters import Meters
from headstart.server.models import Served
from headstart.server.reloads import Reloads
from serving import ColourArtifact, Ready, serving


@pytest.fixture
def models(monkeypatch):
    """Two models; loading a new ``slow`` hangs as long as ``open`` is not set."""
    models = Ready(slow=ColourArtifact(), quick=ColourArtifact())
    models.open, models.loaded = Event(), 0

    def load(place):
        number = models.loaded = models.loaded + 1
        if place.name == "slow":
            assert models.open.wait(20)
        return Served(place, None, f"new {number}")

    monkeypatch.setattr(models, "_load", load)
    yield models
    models.open.set()


async def until(true):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_a_model_that_hangs_holds_up_no_other_and_no_later_reload(models, caplog):
    meters = Meters()

    async def play():
        reloads, hanging = Reloads(models, meters, patience=0.05), models.open
        reloads.begin()
        await until(lambda: models.find("quick").sha256 == "new 2")
        await until(lambda: "still loading" in caplog.text)
        (told,) = [record.facts for record in caplog.records if record.message.startswith("still loading")][:1]
        assert told["model"] == "slow"
        assert told["seconds"] >= 0.05
        assert not models.find("slow").sha256.startswith("new")
        models.open = Event()
        models.open.set()
        reloads.begin()
        await until(lambda: models.find("slow").sha256 == "new 3")
        hanging.set()
        await until(lambda: "begun again" in str([record.facts for record in caplog.records]))
        assert models.find("slow").sha256 == "new 3", "what was begun earlier and ends later is not used"

    with caplog.at_level("INFO", "headstart.server"):
        asyncio.run(play())
    assert 'headstart_reloads_total{model="slow",result="failed"} 1.0' in meters.text().decode()


def test_what_is_asked_for_during_a_reload_is_done_after_it(models):
    async def play():
        reloads = Reloads(models, Meters())
        reloads.begin()
        await until(lambda: models.loaded == 1)
        for _ in range(3):
            reloads.begin()
        models.open.set()
        await until(lambda: models.loaded == 3)
        await reloads.finish(10)

    asyncio.run(play())
    assert models.loaded == 3


def test_the_end_waits_for_no_reload_that_hangs(models, monkeypatch):
    monkeypatch.setattr("headstart.server.run._LAST_RELOAD", 0.1)
    with serving() as rig:
        monkeypatch.setattr(rig.service.models, "_load", models._load)
        monkeypatch.setattr(rig.service.models, "_served", models._served)
        rig.server.servers[0].get_loop().call_soon_threadsafe(rig.server.reloads.begin)
        while not models.loaded:
            time.sleep(0.005)
        began = time.monotonic()
        rig.stop()
        assert time.monotonic() - began < 5
        assert not models.open.is_set()


def test_the_old_model_stays_where_the_new_one_fails():
    models = Ready(colours=ColourArtifact())
    before = models.find("colours")
    with pytest.raises(BundleError, match="colours does not exist"):
        models.reload("colours")
    assert models.find("colours") is before
