"""Encodes a PLY of degree 0 to SPZ with numpy and zstandard: a stand-in for pyspz, which is not published.

Usage: codec.py FILE.ply RUNS. Same quantisation and planes as SPZ version 2, whole arrays at a time; its rounding is
numpy's, so its bytes are not compared.
"""

import statistics
import sys
import time

import numpy as np
import zstandard

SH_C0 = 0.15


def encode(data: bytes) -> bytes:
    end = data.index(b"end_header\n") + len(b"end_header\n")
    header = data[:end].decode("ascii").split("\n")
    count = next(int(line.split()[2]) for line in header if line.startswith("element vertex"))
    names = [line.split()[2] for line in header if line.startswith("property float")]
    rows = np.frombuffer(data, dtype="<f4", offset=end, count=count * len(names)).reshape(count, len(names))

    def columns(*wanted: str) -> np.ndarray:
        return rows[:, [names.index(name) for name in wanted]]

    fixed = np.round(columns("x", "y", "z") * 4096.0).astype("<i4")
    positions = np.ascontiguousarray(fixed).view(np.uint8).reshape(count, 3, 4)[:, :, :3]
    alphas = np.clip(np.round(255.0 / (1.0 + np.exp(-columns("opacity")))), 0, 255).astype(np.uint8)
    colours = columns("f_dc_0", "f_dc_1", "f_dc_2") * (SH_C0 * 255.0) + 0.5 * 255.0
    colours = np.clip(np.round(colours), 0, 255).astype(np.uint8)
    scales = np.clip(np.round((columns("scale_0", "scale_1", "scale_2") + 10.0) * 16.0), 0, 255).astype(np.uint8)
    rotation = columns("rot_1", "rot_2", "rot_3", "rot_0")
    rotation = rotation / np.linalg.norm(rotation, axis=1, keepdims=True)
    rotation = rotation[:, :3] * np.where(rotation[:, 3:] < 0, -127.5, 127.5) + 127.5
    rotation = np.clip(np.round(rotation), 0, 255).astype(np.uint8)

    head = b"NGSP" + np.array([2, count], dtype="<u4").tobytes() + bytes([0, 12, 0, 0])
    planes = [positions, alphas, colours, scales, rotation]
    payload = head + b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
    return zstandard.ZstdCompressor(level=1).compress(payload)


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    runs = int(sys.argv[2])
    encode(data)
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        encode(data)
        times.append((time.perf_counter() - started) * 1e3)
    print(
        f"codec, numpy and zstandard as a stand-in for pyspz (which is not available), degree 0:\n"
        f"  {'encode: PLY to SPZ':<34}{statistics.median(times):9.2f} ms (of {runs}: {min(times):.2f} to {max(times):.2f})"
    )


if __name__ == "__main__":
    main()
