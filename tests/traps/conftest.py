import pytest

from tests.verify.support import make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def other_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("other"), seed=1)
