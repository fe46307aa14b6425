"""One server of Prefect's own for the tests of flows."""

from collections.abc import Callable, Iterator

import pytest


@pytest.fixture(scope="package")  # no longer: it keeps a core busy now and then
def prefect_server() -> Iterator[None]:
    """Prefect's own server with an empty database, one for all tests of flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture
def artifacts(prefect_server) -> Callable[[], dict[str, object]]:
    """Asks the server for the artifacts there are: the latest of each key."""
    from prefect.client.orchestration import get_client

    def latest() -> dict[str, object]:
        with get_client(sync_client=True) as client:
            found = sorted(client.read_artifacts(), key=lambda artifact: artifact.created)
        return {artifact.key: artifact.data for artifact in found}

    return latest
