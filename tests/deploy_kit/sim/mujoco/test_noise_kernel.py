import numpy as np
import pytest
from scipy import stats

from deploy_kit.sim.mujoco.noise_kernel import LANES, STREAM_SHAPE, add_noise, draw_bits, make_normals

MASK = 0xFFFFFFFF


def streams(count, seed=0):
    words = np.random.SeedSequence(seed).generate_state(count * 4 * LANES)
    return words.reshape(count, *STREAM_SHAPE)


def xoshiro128plusplus(state):
    """Return a word and the state after it, as the authors' C code says."""

    def rotated(word, by):
        return ((word << by) | (word >> (32 - by))) & MASK

    a, b, c, d = state
    word = (rotated((a + d) & MASK, 7) + a) & MASK
    shifted = (b << 9) & MASK
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    return word, (a, b, c ^ shifted, rotated(d, 11))


def test_every_lane_is_a_generator_of_its_own():
    stream = streams(1)[0]
    states = [tuple(int(word) for word in stream[:, lane]) for lane in range(LANES)]
    bits = np.empty((50, LANES), np.uint32)
    draw_bits(stream, bits)
    for row in bits:
        expected = []
        for lane in range(LANES):
            word, states[lane] = xoshiro128plusplus(states[lane])
            expected.append(word)
        assert row.tolist() == expected


def normals_of(first, second):
    size = len(first)
    part = np.empty(size, np.float32)
    cosines, sines = np.empty((2, size), np.float32)
    make_normals(np.array(first, np.uint32), np.array(second, np.uint32), part, part.view(np.int32), cosines, sines)
    return cosines, sines


def test_normals_are_box_and_mullers():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2**32, (2, 100_000), np.uint32)
    # The smallest and the largest words too.
    first[:4], second[:4] = (0, 255, MASK, MASK - 255), (0, MASK, 3, MASK - 3)
    cosines, sines = normals_of(first, second)
    radius = np.sqrt(-2 * np.log(((first >> 8) + 1.0) / 2**24))
    angle = (second >> 8) / 2**24 * np.pi / 2
    np.testing.assert_allclose(np.abs(cosines), np.abs(radius * np.cos(angle)), rtol=1e-5, atol=3e-6)
    np.testing.assert_allclose(np.abs(sines), np.abs(radius * np.sin(angle)), rtol=1e-5, atol=3e-6)
    np.testing.assert_array_equal(np.sign(cosines[radius > 0]), 1.0 - (second[radius > 0] & 2))
    positive = (radius > 0) & (sines != 0)
    np.testing.assert_array_equal(np.sign(sines[positive]), 1.0 - 2.0 * (second[positive] & 1))
    assert np.isfinite(cosines).all()
    assert np.isfinite(sines).all()


def spoilt(stream, depth, deviation=0.02, count=6):
    normals, images = (
        np.empty((len(depth), count), np.float32),
        np.full((len(depth), 3 + depth.shape[1]), -1, np.float32),
    )
    add_noise(stream, 0, len(depth), depth, normals, images, 3, deviation, 10.0)
    assert (images[:, :3] == -1).all()
    return images[:, 3:], normals


def test_the_noise_is_normal_independent_and_relative_to_the_depth():
    depth = np.tile(np.linspace(0.5, 5.0, 6912, dtype=np.float32), (64, 1))
    images, others = spoilt(streams(64), depth)
    noise = (images.astype(float) * 10 / depth - 1) / 0.02
    flat = noise.ravel()
    assert abs(flat.mean()) < 4 / np.sqrt(flat.size)
    assert abs(flat.std() - 1) < 4 / np.sqrt(2 * flat.size)
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    assert stats.kstest(others.ravel(), "norm").pvalue > 1e-3
    # Neighbours along the row, in the lane, between the halves of pairs, and between environments.
    for lag in (1, 2, LANES, 96, 6912 // 2, 6912):
        assert abs(np.corrcoef(flat[:-lag], flat[lag:])[0, 1]) < 4 / np.sqrt(flat.size - lag)
        assert abs(np.corrcoef(flat[:-lag] ** 2, flat[lag:] ** 2)[0, 1]) < 4 / np.sqrt(flat.size - lag)
    assert abs(np.corrcoef(noise[:, :6].ravel(), others.ravel())[0, 1]) < 0.25


def test_noisy_depth_is_clipped_to_the_range():
    images, _ = spoilt(streams(1), np.full((1, 6912), 10.0, np.float32))
    assert images.max() == 1.0
    assert (images == 1.0).mean() == pytest.approx(0.5, abs=0.03)
    clean, _ = spoilt(streams(1), np.full((1, 100), 4.0, np.float32), deviation=0.0)
    np.testing.assert_allclose(clean, 0.4, rtol=1e-6)


def test_a_draw_follows_the_last_one_whichever_environments_are_drawn_together():
    depth = np.ones((3, 640), np.float32)
    together, apart = streams(3), streams(3)
    first, _ = spoilt(together, depth)
    second, _ = spoilt(together, depth)
    assert not np.isclose(first, second).any(axis=1).all()
    images = np.zeros((3, 640), np.float32)
    normals = np.empty((3, 6), np.float32)
    for index in (2, 0, 1):
        add_noise(apart, index, index + 1, depth, normals, images, 0, 0.02, 10.0)
        add_noise(apart, index, index + 1, depth, normals, images, 0, 0.02, 10.0)
    np.testing.assert_array_equal(images, second)
