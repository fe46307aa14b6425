"""A server on loopback with one slide."""

import pytest

from tests.cohort.acquire.served import DATA, ID
from tests.data.gdc_server import GdcServer


@pytest.fixture
def server():
    with GdcServer({ID: DATA}) as server:
        yield server
