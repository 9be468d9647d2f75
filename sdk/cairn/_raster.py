"""Raster images: which one bytes are, and how large; PNG files of arrays. Standard library only."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

LARGEST_SIDE = 16_384


@dataclass(frozen=True, slots=True)
class Raster:
    """What an image file is; `width` and `height` in pixels, 0 where they are not known."""

    media_type: str
    width: int = 0
    height: int = 0


def described(data: bytes) -> Raster | None:
    """By its first bytes; None for what is no PNG, JPEG, GIF or WebP."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return Raster("image/png", *struct.unpack(">II", data[16:24]))
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return Raster("image/gif", *struct.unpack("<HH", data[6:10]))
    if data[:3] == b"\xff\xd8\xff":
        return Raster("image/jpeg", *_jpeg_size(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Raster("image/webp", *_webp_size(data))
    return None


def saved(save: Callable[[BinaryIO], object]) -> bytes:
    """What `save` writes into a file."""
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def png_of_array(array: Any, *, channels_first: bool = False) -> bytes:
    """A PNG of a numpy array: H x W or H x W x C (or C x H x W), uint8, bool or floats from 0 to 1.

    Floats outside of 0 to 1 are clipped, NaN is black. Raises ValueError for other shapes and types.
    """
    if array.ndim == 3 and channels_first and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise ValueError(f"an image is H x W or H x W x C with 1, 3 or 4 channels, not {array.shape}")
    height, width = array.shape[:2]
    if max(height, width) > LARGEST_SIDE:
        raise ValueError(f"an image has at most {LARGEST_SIDE:,} pixels a side, not {width:,} x {height:,}")
    pixels = _bytes_of(array)
    channels = 1 if array.ndim == 2 else array.shape[2]
    stride = width * channels
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    head = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows, 1)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _bytes_of(array: Any) -> bytes:
    kind = array.dtype.kind
    if kind == "f":
        array = (array.astype("float32").clip(0, 1) * 255).round()
        array[array != array] = 0
    elif kind == "b":
        array = array.astype("uint8") * 255
    elif kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"an image's values are 0 to 255, floats from 0 to 1, or booleans, not {array.dtype}"
        )
    made: bytes = array.astype("uint8").tobytes()
    return made


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _jpeg_size(data: bytes) -> tuple[int, int]:
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    if data[12:16] == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if data[12:16] == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0
