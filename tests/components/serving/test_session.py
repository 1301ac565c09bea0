"""What the workflow asks of its own server."""

from dataclasses import replace

import pytest

from components.serving.session import users_of
from components.serving.settings import EngineOptions


@pytest.mark.parametrize(("running", "queued", "users"), [(32, 64, 16), (32, 3, 2), (1, 1, 1)])
def test_the_exam_sends_no_more_than_the_server_takes(plan, running, queued, users):
    assert users_of(replace(plan, engine=EngineOptions(max_sequences=running, max_queued=queued))) == users
