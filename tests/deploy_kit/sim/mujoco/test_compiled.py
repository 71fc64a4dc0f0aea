import logging

import pytest

from deploy_kit.sim.mujoco import compiled


def source(text):
    """Return a function without a file, for which numba finds no place to keep compiled code."""
    scope = {}
    exec(text, scope)  # noqa: S102  # code without a file is what the test needs
    return scope["function"]


@pytest.fixture
def announcement(monkeypatch):
    monkeypatch.setattr(compiled, "_announcement", compiled._Announcement())


@pytest.mark.usefixtures("announcement")
def test_without_a_folder_for_the_cache_code_is_compiled_every_time_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "deploy_kit"):
        function = compiled.compiled("f8(f8)")(source("def function(x):\n    return 2.0 * x\n"))
    assert function(1.5) == 3.0
    said = [record.message for record in caplog.records]
    assert sum("compiling the embedded simulator" in line for line in said) == 1
    assert sum("NUMBA_CACHE_DIR" in line for line in said) == 1


@pytest.mark.usefixtures("announcement")
def test_arguments_of_other_types_are_refused_rather_than_compiled_anew():
    function = compiled.compiled("f8(f8[::1])")(source("def function(x):\n    return x[0]\n"))
    with pytest.raises(TypeError, match="No matching definition"):
        function("text")


@pytest.mark.usefixtures("announcement")
def test_what_fails_to_compile_is_not_taken_for_a_missing_cache():
    with pytest.raises(Exception, match="Failed in nopython mode"):
        compiled.compiled("f8(f8)")(source("def function(x):\n    return x.nothing\n"))
