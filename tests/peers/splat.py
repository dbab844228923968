"""PLY and SPZ in numpy, written from vectors/spz/README.md and sharing nothing with the Rust side."""

from dataclasses import dataclass, field

import numpy as np
import zstandard

MAGIC = 0x5053474E
HEADER_BYTES = 16
PAYLOAD_LIMIT = 1 << 30
REST_COUNT = {0: 0, 1: 9, 2: 24, 3: 45}
# Compilers disagree by one here, on values near a rounding edge (README, "Where results may differ").
INEXACT_PLANES = ("alphas", "colours", "rotations")


class SplatError(ValueError):
    pass


@dataclass
class Payload:
    points: int
    degree: int
    planes: dict[str, np.ndarray]

    def positions(self) -> np.ndarray:
        b = self.planes["positions"].reshape(-1, 3).astype(np.int64)
        value = b[:, 0] | b[:, 1] << 8 | b[:, 2] << 16
        value -= (value & 0x800000) << 1
        return (value / 4096.0).reshape(-1, 3)


@dataclass
class Comparison:
    points: int
    degree: int
    position_error: float = 0.0
    """The largest difference of a coordinate, in the units of the PLY file."""
    off_by_one: int = 0
    """Bytes that differ by one in a plane where compilers differ."""
    wrong: dict[str, int] = field(default_factory=dict)
    """Differing bytes by plane, less those counted in `off_by_one`."""

    def problem(self, allowed_off_by_one: int) -> str | None:
        if self.position_error > 1 / 4096:
            return f"a coordinate is off by {self.position_error}"
        if self.wrong:
            return f"bytes differ from the PLY file: {self.wrong}"
        if self.off_by_one > allowed_off_by_one:
            return f"{self.off_by_one} bytes differ by one from the PLY file"
        return None


def read_ply(data: bytes) -> dict[str, np.ndarray]:
    head, mark, body = data.partition(b"end_header\n")
    lines = head.decode("ascii").split("\n")
    if not mark or lines[:2] != ["ply", "format binary_little_endian 1.0"]:
        raise SplatError("not a binary little-endian PLY file")
    if not lines[2].startswith("element vertex "):
        raise SplatError("no vertex element")
    digits = lines[2].removeprefix("element vertex ").lstrip().removeprefix("+")
    count = int(digits[: len(digits) - len(digits.lstrip("0123456789"))])
    names = []
    for line in lines[3:-1]:
        if not line.startswith("property float "):
            raise SplatError(f"unexpected header line {line!r}")
        names.append(line.removeprefix("property float "))
    if len(body) < count * len(names) * 4:
        raise SplatError("the PLY file is cut off")
    rows = np.frombuffer(body, "<f4", count * len(names)).reshape(count, len(names))
    return {name: rows[:, i] for i, name in enumerate(names)}


def encode(ply: dict[str, np.ndarray]) -> Payload:
    """What the subnet's own encoder writes for these Gaussians."""

    def columns(*names: str) -> np.ndarray:
        return np.stack([ply[name] for name in names], axis=1).astype(np.float32)

    f32 = np.float32
    rest = 0
    while rest < 45 and f"f_rest_{rest}" in ply:
        rest += 1
    degree = {count: degree for degree, count in REST_COUNT.items()}.get(rest)
    if degree is None:
        raise SplatError(f"{rest} f_rest values make no full degree")

    with np.errstate(all="ignore"):
        fixed = _int32(_round(columns("x", "y", "z") * f32(4096)))
        positions = np.stack([fixed >> shift & 0xFF for shift in (0, 8, 16)], axis=-1)

        # In double and back: the C library's expf is correctly rounded nearly everywhere, numpy's own is not.
        e = np.exp(-columns("opacity").astype(np.float64)).astype(np.float32)
        alphas = _u8(f32(1) / (f32(1) + e) * f32(255))
        colours = _u8(columns("f_dc_0", "f_dc_1", "f_dc_2") * f32(38.25) + f32(127.5))
        scales = _u8((columns("scale_0", "scale_1", "scale_2") + f32(10)) * f32(16))

        w, x, y, z = columns("rot_0", "rot_1", "rot_2", "rot_3").T
        length = np.sqrt(x * x + y * y + z * z + w * w)
        turn = np.where(w / length < 0, f32(-127.5), f32(127.5))
        rotations = _u8(np.stack([x, y, z], axis=1) / length[:, None] * turn[:, None] + f32(127.5))

        per_channel = rest // 3
        order = [j + channel * per_channel for j in range(per_channel) for channel in range(3)]
        if order:
            sh = _int32(_round(columns(*(f"f_rest_{j}" for j in order)) * f32(128)).astype(np.float32) + f32(128))
            bucket = np.array([8 if i < 9 else 16 for i in range(len(order))])
            sh = np.clip(np.trunc((sh + bucket // 2) / bucket) * bucket, 0, 255)
        else:
            sh = np.zeros((len(x), 0))

    planes = {
        "positions": positions,
        "alphas": alphas,
        "colours": colours,
        "scales": scales,
        "rotations": rotations,
        "sh": sh,
    }
    return Payload(len(x), degree, {name: plane.astype(np.uint8).reshape(-1) for name, plane in planes.items()})


def unpack_spz(data: bytes) -> Payload:
    """Opens a submission as strictly as the subnet's decoder and the encoder's habits allow."""
    try:
        frame = zstandard.get_frame_parameters(data)
        size = frame.content_size
        if not 0 < size <= PAYLOAD_LIMIT:
            raise SplatError(f"the zstd frame declares a content size of {size}")
        if frame.dict_id:
            raise SplatError("the zstd frame needs a dictionary")
        payload = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise SplatError(f"not one zstd frame: {error}") from error
    if len(payload) != size:
        raise SplatError(f"the frame declares {size} bytes and holds {len(payload)}")
    return read_payload(payload)


def read_payload(payload: bytes) -> Payload:
    if len(payload) < HEADER_BYTES:
        raise SplatError("shorter than its header")
    magic, version, points = (int(word) for word in np.frombuffer(payload, "<u4", 3))
    degree, fraction, flags, reserved = payload[12:HEADER_BYTES]
    if (magic, version, fraction, flags, reserved) != (MAGIC, 2, 12, 0, 0):
        raise SplatError(f"unexpected header {payload[:HEADER_BYTES].hex()}")
    if degree not in REST_COUNT or points == 0:
        raise SplatError(f"degree {degree}, {points} points")
    widths = {"positions": 9, "alphas": 1, "colours": 3, "scales": 3, "rotations": 3, "sh": REST_COUNT[degree]}
    if len(payload) != HEADER_BYTES + points * sum(widths.values()):
        raise SplatError(f"{len(payload)} bytes for {points} points of degree {degree}")
    planes, at = {}, HEADER_BYTES
    for name, width in widths.items():
        planes[name] = np.frombuffer(payload, np.uint8, points * width, at)
        at += points * width
    return Payload(points, degree, planes)


def compare(sent: Payload, wanted: Payload) -> Comparison:
    if (sent.points, sent.degree) != (wanted.points, wanted.degree):
        raise SplatError(
            f"{sent.points} points of degree {sent.degree}, wanted {wanted.points} of degree {wanted.degree}"
        )
    found = Comparison(sent.points, sent.degree)
    found.position_error = float(np.abs(sent.positions() - wanted.positions()).max())
    for name, plane in sent.planes.items():
        distance = np.abs(plane.astype(np.int16) - wanted.planes[name])
        near = int((distance == 1).sum()) if name in INEXACT_PLANES else 0
        found.off_by_one += near
        if wrong := int((distance != 0).sum()) - near:
            found.wrong[name] = wrong
    return found


def _round(v: np.ndarray) -> np.ndarray:
    """Half away from zero; exact because a float32 plus a half fits a double."""
    v = v.astype(np.float64)
    return np.trunc(v + np.copysign(0.5, v))


def _int32(v: np.ndarray) -> np.ndarray:
    """The x86-64 conversion: whatever does not fit becomes the smallest int32."""
    v = v.astype(np.float64)
    fits = (v >= -(2.0**31)) & (v < 2.0**31)
    return np.where(fits, v, -(2.0**31)).astype(np.int64)


def _u8(v: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(_round(v), nan=0.0, posinf=255.0, neginf=0.0), 0, 255)
