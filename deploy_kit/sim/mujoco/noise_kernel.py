"""Noise on depth images as compiled code.

Uniform bits come from xoshiro128++ (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021), one
generator for each of several lanes, so that the compiler turns lanes into vector instructions. Normal draws come from
them by the transform of Box and Muller, with logarithm, sine and cosine as series. Radii are drawn in steps of 2^-24 of
probability, so that no draw is beyond 5.8 standard deviations, as one in 10^8 would be.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from deploy_kit.sim.mujoco.compiled import compiled

LANES = 16
"""Generators side by side."""
STREAM_SHAPE = 4, LANES
"""Shape of the state of an environment's generators, uint32."""

Words: TypeAlias = npt.NDArray[np.uint32]
Floats: TypeAlias = npt.NDArray[np.float32]


@compiled("void(u4[:,::1], u4[:,::1])")
def draw_bits(stream: Words, bits: Words) -> None:
    """Fill bits (M, LANES) row by row, a lane from its own generator; advances stream, of shape STREAM_SHAPE."""
    for row in range(bits.shape[0]):
        line = bits[row]
        for lane in range(LANES):
            a, b, c, d = stream[0, lane], stream[1, lane], stream[2, lane], stream[3, lane]
            word = np.uint32(a + d)
            line[lane] = np.uint32(np.uint32((word << np.uint32(7)) | (word >> np.uint32(25))) + a)
            shifted = np.uint32(b << np.uint32(9))
            c ^= a
            d ^= b
            b ^= c
            a ^= d
            c ^= shifted
            stream[0, lane], stream[1, lane], stream[2, lane] = a, b, c
            stream[3, lane] = np.uint32((d << np.uint32(11)) | (d >> np.uint32(21)))


@compiled("void(u4[::1], u4[::1], f4[::1], i4[::1], f4[::1], f4[::1])")
def make_normals(
    first: Words, second: Words, part: Floats, bits_of_part: npt.NDArray[np.int32], cosines: Floats, sines: Floats
) -> None:
    """Turn pairs of uniform words into pairs of normal draws.

    Args:
        first: words that give the radius, shape (M,).
        second: words that give the angle, shape (M,).
        part: scratch, shape (M,).
        bits_of_part: the same memory, as integers.
        cosines: where to write one of each pair, shape (M,).
        sines: where to write the other one.
    """
    one, half, step = np.float32(1.0), np.float32(0.5), np.float32(2.0**-24)
    for index in range(first.size):
        # In (0, 1].
        part[index] = np.float32(np.int32(first[index] >> np.uint32(8)) + np.int32(1)) * step
    for index in range(first.size):
        # Split into m · 2^e with m from 1/√2, whose bits are 0x3F3504F3, to √2.
        word = bits_of_part[index]
        power = np.int32(np.int32(word - np.int32(0x3F3504F3)) >> np.int32(23))
        bits_of_part[index] = np.int32(word - np.int32(power << np.int32(23)))
        cosines[index] = np.float32(power)
    for index in range(first.size):
        # ln(m · 2^e) = 2·artanh((m - 1) / (m + 1)) + e·ln 2.
        s = (part[index] - one) / (part[index] + one)
        z = s * s
        series = np.float32(1 / 5) + z * (np.float32(1 / 7) + z * np.float32(1 / 9))
        series = one + z * (np.float32(1 / 3) + z * series)
        logarithm = np.float32(2.0) * s * series + cosines[index] * np.float32(0.6931471805599453)
        # The angle lies in the first quadrant, delta from its middle; each coordinate then gets a sign.
        radius = np.sqrt(np.float32(-2.0) * logarithm) * np.float32(0.7071067811865476)
        word = second[index]
        delta = (np.float32(np.int32(word >> np.uint32(8))) * step - half) * np.float32(1.5707963267948966)
        y = delta * delta
        cosine = one - y * (half - y * (np.float32(1 / 24) - y * (np.float32(1 / 720) - y * np.float32(1 / 40320))))
        sine = delta * (one - y * (np.float32(1 / 6) - y * (np.float32(1 / 120) - y * np.float32(1 / 5040))))
        right = one - np.float32(np.int32(word & np.uint32(2)))
        up = one - np.float32(np.int32((word & np.uint32(1)) << np.uint32(1)))
        cosines[index] = radius * (cosine - sine) * right
        sines[index] = radius * (cosine + sine) * up


@compiled("void(f4[::1], f4[::1], f4[::1], f4, f4)")
def _spoil(clean: Floats, normals: Floats, noisy: Floats, deviation: float, reach: float) -> None:
    """Write depth with relative noise, clipped to `reach` and divided by it."""
    one, scale = np.float32(1.0), np.float32(1.0) / reach
    for index in range(clean.size):
        noisy[index] = min(clean[index] * (one + deviation * normals[index]), reach) * scale


@compiled("void(u4[:,:,::1], i8, i8, f4[:,::1], f4[:,::1], f4[:,::1], i8, f4, f4)")
def add_noise(
    streams: Words,
    first: int,
    end: int,
    depth: Floats,
    normals: Floats,
    images: Floats,
    column: int,
    deviation: float,
    reach: float,
) -> None:
    """Write noisy images, and normal draws for other uses, of some environments.

    Args:
        streams: generators of each environment, shape (N, *STREAM_SHAPE); advanced.
        first: first environment.
        end: the one after the last.
        depth: depth of every pixel, m, shape (N, pixels).
        normals: where to write normal draws, shape (N, some).
        images: where to write images, depth over range, shape (N, column + pixels).
        column: where images begin.
        deviation: standard deviation of the noise, relative to a pixel's depth.
        reach: the camera's range, m, to which noisy depth is clipped.
    """
    pixels, others = depth.shape[1], normals.shape[1]
    rows = (pixels + others + 2 * LANES - 1) // (2 * LANES)
    radii, angles = np.empty((rows, LANES), np.uint32), np.empty((rows, LANES), np.uint32)
    part, draws = np.empty(rows * LANES, np.float32), np.empty(2 * rows * LANES, np.float32)
    bits_of_part = part.view(np.int32)
    half = rows * LANES
    for index in range(first, end):
        draw_bits(streams[index], radii)
        draw_bits(streams[index], angles)
        make_normals(radii.reshape(-1), angles.reshape(-1), part, bits_of_part, draws[:half], draws[half:])
        _spoil(depth[index], draws[:pixels], images[index, column:], deviation, reach)
        normals[index] = draws[pixels : pixels + others]
