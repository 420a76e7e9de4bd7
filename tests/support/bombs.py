"""Bodies that are small compressed and huge decompressed."""

from __future__ import annotations

import zlib

MIB = 1024 * 1024


def gzip_bomb(mib: int) -> bytes:
    """`mib` MiB of zeros as one gzip member of about a thousandth of that. Only its checksum is missing at the end.

    One block is compressed and repeated: to compress gigabytes would take longer than the test.
    """
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    first, block = (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + block * (mib - 1)
