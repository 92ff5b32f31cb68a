// Cosines, sines and exponentials as integers, and the gates that are made of them.
#pragma once

#include <vector>

#include "keystream.h"

namespace tv {

// What `torchveil.kernels.tables` holds: 2^11 cosines and sines of i / 2^11 turns, then of i / 2^22 turns, at scale 2^31.
struct TrigTables {
    const u64* coarse_cos;
    const u64* coarse_sin;
    const u64* fine_cos;
    const u64* fine_sin;
    u64 slope;  // 2 pi / 2^40 at scale 2^61
};

// How the harmonics of an angle are reached: slot 0 holds the angle itself, each step adds the angles of two slots. The
// cosine and sine of frequency f stand in slot `slot[f]` after `steps_before[f]` steps.
struct Rotation {
    int to;
    int a;
    int b;
};
struct Harmonics {
    std::vector<Rotation> steps;
    std::vector<int> steps_before;
    std::vector<int> slot;
    int slots;
};

struct Angle {
    TrigTables tables;
    int bits;  // of one turn, 3 to 62
    const Harmonics& harmonics;
};

// The provider: for each frequency the cosine and the sine of its multiple of the mask; with a bit b, b V and (1 - b) V of
// each. out[k] is less pads[k]; both have 2 entries a frequency, or 4.
void series_masks(const std::vector<u64*>& out, const std::vector<Pads>& pads, const u64* mask, const u64* bit,
                  const Angle& angle, i64 count, int threads);

// A party's share of constant + the sum over frequencies of a cos + b sin, or of the bit times that (flip is then not
// null): `pieces` are its pieces of what series_masks makes.
struct Coefficients {
    std::vector<u64> cosines;
    std::vector<u64> sines;
    u64 constant;
};
void series(u64* out, const u64* opened, const std::vector<Source>& pieces, const u64* flip, const u64* bit, bool first,
            const Coefficients& coefficients, const Angle& angle, i64 count, int threads);

// e^(x / unit) as in `torchveil.kernels.tables`: a mantissa and a shift by the high bits of x, a factor by the rest.
struct ExponentialTables {
    const u64* mantissas;
    const u64* shifts;
    const u64* fine;
    int step_bits;
    int linear_bits;
    u64 slope;  // of the last linear_bits, at scale 2^51
    i64 low;    // x is clamped to [low, high]
    i64 high;
};

// The provider: with l the low bits + 1 bits of the mask, top its highest bit and V = e^-(the rest), (1 - top) V and top V;
// with a bit b, b V and (1 - b) V of each. out[k] is less pads[k], k < 2 or 4.
void exponential_masks(u64* const (&out)[4], const Pads (&pads)[4], const u64* mask, const u64* bit, int bits,
                       const ExponentialTables& tables, i64 count, int threads);

// A party's share of e^x for x in (-2^bits, 0], or of the bit times that, from its pieces of the two values (or four).
void exponential(u64* out, const u64* opened, const Source (&pieces)[4], const u64* flip, int bits,
                 const ExponentialTables& tables, i64 count, int threads);

}  // namespace tv
