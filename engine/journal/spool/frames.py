"""Frames: the encoding of records in a spool's segments and in stream entries.

Little-endian, without padding between them:

    bytes 0-3     length of the payload, unsigned
    bytes 4-7     CRC-32 of the bytes that follow: sequence number, partition and payload
    bytes 8-15    sequence number, unsigned
    bytes 16-17   partition, unsigned
    bytes 18-     payload: one encoded record
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_LENGTH_CRC = struct.Struct("<II")
_SEQ_PARTITION = struct.Struct("<QH")
HEADER = struct.Struct("<IIQH")
"""Length, CRC-32, sequence number and partition."""


class Frame(NamedTuple):
    """One record of a segment; `raw` is the frame with its header."""

    seq: int
    partition: int
    raw: bytes

    @property
    def payload(self) -> bytes:
        """The encoded record; copied when it is asked for, since shipping needs `raw` alone."""
        return self.raw[HEADER.size :]


def encode_frame(seq: int, partition: int, payload: bytes) -> bytes:
    """One record as a frame."""
    tail = _SEQ_PARTITION.pack(seq, partition)
    return _LENGTH_CRC.pack(len(payload), zlib.crc32(payload, zlib.crc32(tail))) + tail + payload


def decode_frames(data: bytes) -> Iterator[Frame]:
    """The whole frames at the start of `data`; stops at a torn or altered one."""
    at, end, head, view = 0, len(data), HEADER.size, memoryview(data)
    unpack, crc32 = HEADER.unpack_from, zlib.crc32  # local: this loop runs for every record that is shipped
    while at + head <= end:
        length, crc, seq, partition = unpack(data, at)
        after = at + head + length
        if after > end or length == 0 or crc32(view[at + _LENGTH_CRC.size : after]) != crc:
            break
        yield Frame(seq, partition, data[at:after])
        at = after


def decode_payloads(data: bytes, behind: int) -> tuple[list[tuple[int, bytes]], int]:
    """Sequence numbers and payloads of the frames at the start of `data`, as `decode_frames`, in one pass.

    Returns:
        Those with a sequence number above `behind`, and the length of all whole frames in bytes.
    """
    found: list[tuple[int, bytes]] = []
    at, end, head, view = 0, len(data), HEADER.size, memoryview(data)
    unpack, crc32 = HEADER.unpack_from, zlib.crc32  # local: this loop runs for every record of the log
    while at + head <= end:
        length, crc, seq, _ = unpack(data, at)
        after = at + head + length
        if after > end or length == 0 or crc32(view[at + _LENGTH_CRC.size : after]) != crc:
            break
        if seq > behind:
            found.append((seq, data[at + head : after]))
        at = after
    return found, at
