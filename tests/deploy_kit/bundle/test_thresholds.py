import json

import pytest

from deploy_kit.bundle.thresholds import (
    DEFAULT_PROFILE,
    PROFILE_VERSION,
    PROFILES,
    PROFILES_PATH,
    Thresholds,
    Tolerance,
    load_profile,
)
from deploy_kit.errors import InputError


def test_limits_without_a_profile_are_those_of_fp32():
    assert Thresholds() == load_profile(DEFAULT_PROFILE)


def test_shipped_profiles_are_those_of_their_file():
    shipped = json.loads(PROFILES_PATH.read_text(encoding="utf-8"))
    assert shipped["profile_version"] == PROFILE_VERSION
    assert PROFILES == ("fp32", "tf32", "fp16", "int8")
    for name in PROFILES:
        assert load_profile(name).to_json() == {"profile": name, **shipped["profiles"][name]}


def test_narrower_arithmetic_is_allowed_more_and_flights_are_allowed_the_same():
    profiles = [load_profile(name) for name in PROFILES]
    assert [p.parity.absolute for p in profiles] == sorted(p.parity.absolute for p in profiles)
    assert [p.decision_band for p in profiles] == sorted(p.decision_band for p in profiles)
    for profile in profiles:
        margins = profile.margins
        assert (margins.gates, margins.crashed, margins.speed) == (0.25, 0.05, 0.1)
        assert profile.quick_margins == profiles[0].quick_margins
        assert (profile.min_episodes, profile.min_gates) == (16, 1.0)


def write(path, **changes):
    data = {"profile_version": 1, "profile": "ours", "based_on": "tf32", "limits": {}, **changes}
    path.write_text(json.dumps(data))
    return str(path)


def test_profile_of_the_users_own_says_what_differs(tmp_path):
    path = write(tmp_path / "p.json", limits={"parity": {"absolute": 1e-3, "relative": 0.0}, "min_episodes": 4})
    ours = load_profile(path)
    assert (ours.profile, ours.parity, ours.min_episodes) == ("ours", Tolerance(1e-3, 0.0), 4)
    assert ours.decision_band == load_profile("tf32").decision_band


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile_version": 2}, "profile_version is 2"),
        ({"profile": "fp32"}, "a name of its own"),
        ({"profile": 3}, "a name of its own"),
        ({"based_on": "fp23"}, "'based_on' is 'fp23', expected one of fp32"),
        ({"based_on": []}, "'based_on' is"),
        ({"limits": []}, "'limits' must be"),
        ({"limits": {"profile": "int8"}}, "'limits' must be"),
        ({"limits": {"party": {}}}, "unknown field 'party'"),
        ({"limits": {"parity": 1e-3}}, "limits.parity is float"),
        ({"limits": {"parity": {"absolute": 1e-3}}}, "limits.parity lacks the field 'relative'"),
        ({"limits": {"decision_band": 1e400}}, "Infinity is not a JSON number"),
        ({"limits": {"decision_band": -1e-3}}, "decision_band is -0.001"),
        ({"limits": {"margins": {"gates": -1.0, "crashed": 0.1, "speed": 0.1}}}, "margins.gates is -1.0"),
        ({"limits": {"min_episodes": 1}}, "min_episodes is 1"),
        ({"parity": {}}, "unknown field 'parity'"),
    ],
    ids=str,
)
def test_unusable_profiles_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load_profile(write(tmp_path / "p.json", **changes))


def test_missing_profile_is_named_with_what_there_is(tmp_path):
    with pytest.raises(InputError, match=r"did you mean 'fp32'.*known: fp32, tf32, fp16, int8"):
        load_profile("fp23")
    (tmp_path / "p.json").write_text("[")
    with pytest.raises(InputError, match="not valid JSON"):
        load_profile(str(tmp_path / "p.json"))


def test_limits_are_told_and_not_rounded():
    assert str(load_profile("fp32").parity) == "1e-05 + 1e-05·|ref|"
    assert str(load_profile("int8").parity) == "0.15 + 1e-01·|ref|"
