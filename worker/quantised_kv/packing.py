"""Keys or values of 8 or 4 bits, packed into one array of 32-bit words.

A head's values of one token are quantised in groups. Behind their codes are the scales and the
offsets of the groups in 16 bits. So a packed array is cut, joined and padded by tokens as any
other, and zeros are packed as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

# MLX's sizes of groups; a larger group needs fewer scales.
LARGE_GROUP, SMALL_GROUP = 64, 32
WORD_BITS = 32
# Packed values that save less are not worth it: narrow heads are mostly padding.
MAX_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Packing:
    """How values of [..., width] of type `dtype` are packed to words of [..., `words`].

    Where no group divides the width, zeros fill the last one.
    """

    bits: int
    width: int
    dtype: mx.Dtype

    def __deepcopy__(self, memo: object) -> Packing:
        """It never changes, and MLX's types cannot be copied."""
        return self

    @property
    def padding(self) -> int:
        """The zeros behind the values."""
        return -self.width % SMALL_GROUP

    @property
    def group_size(self) -> int:
        """The values with the same scale."""
        return SMALL_GROUP if (self.width + self.padding) % LARGE_GROUP else LARGE_GROUP

    @property
    def groups(self) -> int:
        """The groups of a head; the scale and the offset of each are a word."""
        return (self.width + self.padding) // self.group_size

    @property
    def code_words(self) -> int:
        """The words of a head's codes."""
        return (self.width + self.padding) * self.bits // WORD_BITS

    @property
    def words(self) -> int:
        """The words of a head."""
        return self.code_words + self.groups

    @property
    def scale_dtype(self) -> mx.Dtype:
        """The type of the scales: always of 16 bits."""
        return self.dtype if self.dtype.size == mx.float16.size else mx.float16

    def pack(self, values: mx.array) -> mx.array:
        """The words of these values."""
        if self.padding:
            values = mx.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, self.padding)])
        codes, scales, offsets = mx.quantize(values, group_size=self.group_size, bits=self.bits)
        halves = mx.concatenate([scales, offsets], axis=-1).astype(self.scale_dtype)
        return mx.concatenate([codes, halves.view(mx.uint32)], axis=-1)

    def unpack(self, words: mx.array) -> mx.array:
        """The values of these words."""
        codes, halves = words[..., : self.code_words], words[..., self.code_words :]
        scales = halves.view(self.scale_dtype).astype(self.dtype)
        values = mx.dequantize(
            codes,
            scales[..., : self.groups],
            scales[..., self.groups :],
            group_size=self.group_size,
            bits=self.bits,
        )
        return values[..., : self.width] if self.padding else values


def packing_for(values: mx.array, bits: int) -> Packing | None:
    """How values like these are packed; None if that saves nothing."""
    packing = Packing(bits, values.shape[-1], values.dtype)
    packed_bytes, kept_bytes = packing.words * mx.uint32.size, packing.width * packing.dtype.size
    worth = packed_bytes < MAX_SHARE * kept_bytes
    return packing if worth and mx.issubdtype(packing.dtype, mx.floating) else None
