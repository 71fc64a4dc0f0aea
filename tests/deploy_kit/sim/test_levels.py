import numpy as np

from deploy_kit.sim.levels import TrackGrid, column_kind
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.tracks import make_track
from deploy_kit.task.racing import RACING_TASK

LEVELS = RACING_TASK.levels


def grid(**changes):
    return TrackGrid(EnvOptions(**{"num_envs": 2048, "levels": True, "obstacles": False, **changes}), LEVELS)


def test_200_tracks_60_zigzags_60_circles_80_ellipses():
    """Ten levels of 20 columns: zigzags in columns 0 to 5, circles in 6 to 11, ellipses in 12 to 19."""
    tracks = grid()
    kinds = [[tracks.track(level, column).kind for level in range(10)] for column in range(tracks.columns)]
    assert kinds == [["zigzag"] * 10] * 6 + [["circular"] * 10] * 6 + [["ellipse"] * 10] * 8
    every = {tracks.track(level, column).track_id for level in range(10) for column in range(20)}
    assert len(every) == 200


def test_level_k_has_difficulties_from_k_to_k_plus_1_tenths():
    tracks = grid()
    for level in range(10):
        spread = [tracks.track(level, column).difficulty * 10 - level for column in range(20)]
        assert 0 <= min(spread) < 0.35
        assert 0.65 < max(spread) <= 1


def test_tracks_are_made_once_and_can_be_drawn_again():
    tracks = grid(obstacles=True)
    track = tracks.track(3, 7)
    assert tracks.track(3, 7) is track
    again = make_track(track.track_id, (track.kind,), (0.3, 0.4), True)
    assert again.primitives == track.primitives
    assert tracks.track(3, 8).primitives != track.primitives


def test_columns_are_shared_out_evenly_and_for_ever():
    """Column = floor(index / 102.4) with 2048 drones."""
    tracks = grid()
    assert [tracks.column_of(env) for env in (0, 102, 103, 204, 205, 2047)] == [0, 0, 1, 1, 2, 19]


def test_kinds_that_are_not_asked_for_have_no_columns():
    assert [column_kind(column, 7, ("ellipse", "zigzag")) for column in range(7)] == ["zigzag"] * 3 + ["ellipse"] * 4
    assert {column_kind(column, 20, ("circular",)) for column in range(20)} == {"circular"}


def test_a_pool_says_how_many_tracks_there_are():
    assert grid(track_pool=640).columns == 64
    assert grid(track_pool=3).columns == 1


def test_neighbouring_tiles_are_40_metres_apart_and_stand_there_too():
    alone, among = grid(), grid(neighbours=True)
    track, crowd = alone.track(4, 10), among.track(4, 10)
    assert crowd.primitives[: len(track.primitives)] == track.primitives
    assert len(crowd.primitives) == 9 * 32
    np.testing.assert_array_equal(crowd.gate_positions, track.gate_positions)
    positions = {solid.position for solid in crowd.primitives}
    # Level 5 lies 40 m further along x, column 9 lies 40 m back along y.
    for level, column, offset in ((5, 10, (40.0, 0.0)), (4, 9, (0.0, -40.0))):
        for solid in alone.track(level, column).primitives:
            x, y, z = solid.position
            assert (x + offset[0], y + offset[1], z) in positions
    assert len(among.track(0, 0).primitives) == 4 * 32
    np.testing.assert_array_equal(alone.place(5, 10) - alone.place(4, 9), [40.0, 40.0, 0.0])
