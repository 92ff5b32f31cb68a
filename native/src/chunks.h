// Chunk look-ups of the comparator in the real ring: 16 chunks of 4 bits.
#pragma once

#include "keystream.h"

namespace tv {

// The provider: out[k * count + i] has bit u set iff u < l, the k-th digit of x[i] (of -x[i] with `negate`). The last digit
// counts 3 bits, or 4 with `full`. `tops`, if not null, receives the packed top bits. Every word is XORed with its pads.
void unary_tables(u16* out, const Pads& pads, u8* tops, const u64* x, i64 count, bool negate, bool full, int threads);

// A party: for every threshold j and digit v_k of y - threshold[j], y = opened or -opened, bit v_k of the table is
// [v_k < l_k] and bit v_k - 1 is [v_k <= l_k] (with bit -1 set at the first party). Packed planes of ceil(count / 8)
// bytes: less and equal [16][n], equal being the XOR of the two; tops [n]. less and tops may be null.
struct LeafOut {
    u8* less;
    u8* equal;
    u8* tops;
};
void unary_leaf(const LeafOut& out, const u64* opened, const Source& tables, const u64* thresholds, i64 n, i64 count,
                bool negate, bool full, bool first, int threads);

}  // namespace tv
