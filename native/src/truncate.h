// Division by a public divisor: the provider's side and a party's side of the truncation gate.
#pragma once

#include "keystream.h"

namespace tv {

// floor(r / d) and the constants of the gate for a divisor 0 < d < 2^62.
struct Divisor {
    u64 d;
    u64 magic;  // 0 for a power of two
    int shift;
    u64 carry;  // 2^62 mod d
    u64 step;   // floor(2^64 / d), modulo 2^64
    u64 rest;   // 2^64 mod d
    u64 base;   // floor(2^62 / d)

    explicit Divisor(u64 divisor);
};

// floor(x / d) of the unsigned x.
void divide(u64* out, const u64* x, i64 count, const Divisor& d, int threads);

// The provider: q = floor((r + 2^62 mod d) / d) and t, the top bit of r. Without a bit, out[0] = q and out[1] = t; with
// one, out[0..3] = b q, q - b q, b t, t - b t; each less its pads.
void mask_quotients(u64* const (&out)[4], const Pads (&pads)[4], const u64* r, const u64* bit, i64 count,
                    const Divisor& d, int threads);

// What a party holds of the dealt values and of the gating bit (then flip is not null).
struct TruncationPieces {
    Source quotient[2];  // its piece of q, or of b q and (1 - b) q
    Source top[2];
    const u64* flip;
    const u64* bit;
};

// A party's share of x / d, or of bit * x / d.
void truncate(u64* out, const u64* opened, const TruncationPieces& pieces, bool first, i64 count, const Divisor& d,
              int threads);

}  // namespace tv
