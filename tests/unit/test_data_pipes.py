"""Pipes and devices among images, which have no end."""

import os

import pytest

from headstart.data.sources.facts import look_at


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_has_no_end_is_refused_and_not_read(tmp_path, kind):
    path = tmp_path / "a.png"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    facts = look_at(path)
    assert (facts.sha256, facts.reason) == ("", "not a regular file")
