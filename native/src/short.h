// Short openings (k = 16 bits fewer), the lift back into the whole ring, and linear combinations.
#pragma once

#include "keystream.h"

namespace tv {

// What travels of an element of 48 bits: its low 16 bits and the 32 above.
struct ShortPiece {
    u16* low;
    u32* high;
};

// out = value with its low bits (those of `low`, 2^k - 1) cleared, after adding `low` if `up`.
void round_share(u64* out, const u64* value, u64 low, bool up, i64 count, int threads);

// piece = floor(value / 2^16) + mask modulo 2^48, as signed numbers; the keystream goes to `mask`.
void mask_short(const ShortPiece& piece, u64* mask, const u64* value, const Source& drawn, i64 count, int threads);

// out = 2^16 times the sum of n pieces modulo 2^48.
void add_short(u64* out, const ShortPiece* pieces, int n, i64 count, int threads);

// The provider of a lift: rows H, R and, with a bit, bit R of `count` words each, less their pads; gated = bit L.
void lift_rows(u16* rows, const Pads& pads, u64* gated, const u64* mask, const u64* bit, i64 count, int threads);

// What a party holds for a lift: the opening, its words (rows of `count`) and its piece of the mask.
struct LiftPieces {
    const u64* opened;
    Source rows;
    const u64* mask;
    bool first;
};

// A party's share of the quotient, and of the upper bits of its opening.
void lift(u64* out, u16* upper, const LiftPieces& pieces, i64 count, int threads);

// A party's share of bit times the quotient; `dealt` is its piece of bit L.
void lift_gated(u64* out, const LiftPieces& pieces, const Source& dealt, const u64* flip, const u64* bit, i64 count,
                int threads);

// The opening of the quotient from the short opening and the sum of the upper bits.
void complete(u64* out, const u64* opened, const u16* upper, i64 count, int threads);

// out = constant + the sum of n factors times values.
void combine(u64* out, const u64* const* values, const u64* factors, int n, u64 constant, i64 count, int threads);

}  // namespace tv
