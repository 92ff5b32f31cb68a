// Gates that are one formula per element.
#pragma once

#include "keystream.h"

namespace tv {

// The provider of a selection: out = bit * mask, less its pads.
void select_masks(u64* out, const Pads& pads, const u64* bit, const u64* mask, i64 count, int threads);

// A party's share of bit * x: flip * share + (1 - 2 flip) * (opened * bit - dealt).
void select(u64* out, const u64* flip, const u64* opened, const u64* bit, const Source& dealt, const u64* share,
            i64 count, int threads);

// A party's share of the elementwise product: dealt + x (y - b) - a y at the first party, dealt - x b - a y elsewhere,
// with x and y the openings and a and b its pieces of their masks.
void multiply(u64* out, const Source& dealt, const u64* x, const u64* a, const u64* y, const u64* b, bool first,
              i64 count, int threads);

// A party's share of a bit as a ring element: (1 - 2 flip) * bit, plus flip at the first party.
void bit_to_ring(u64* out, const u64* flip, const u64* bit, bool first, i64 count, int threads);

// A party's share of constant + the sum of weight * bit, of n bits as in bit_to_ring; constant at the first party only.
void weigh_bits(u64* out, const u64* const* flips, const u64* const* bits, const u64* weights, int n, u64 constant,
                bool first, i64 count, int threads);

// out = the sum of the pieces (n of them, `count` ring elements each), or their XOR (`count` bytes each).
void add_pieces(u64* out, const u64* const* pieces, int n, i64 count, int threads);
void xor_pieces(u8* out, const u8* const* pieces, int n, i64 count, int threads);

}  // namespace tv
