// Theory of operation. A quotient by an invariant d is a high product with a 65-bit reciprocal, followed by a shift
// (Granlund and Montgomery, PLDI'94, fig. 4.1), exact for every 64-bit dividend. The loops hold no branch, so the compiler turns
// them into vector code; the high product is written with four 32-bit products for those instruction sets that have no
// other, and with the 128-bit one elsewhere.

#include "truncate.h"

#include <algorithm>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kGrain = 1 << 16;
constexpr i64 kBlock = 512;  // elements: what is drawn for them stays in the first-level cache

template <bool wide>
TV_INLINE u64 high_product(u64 a, u64 b) {
    if (wide) return static_cast<u64>((static_cast<unsigned __int128>(a) * b) >> 64);
    const u64 mask = 0xFFFFFFFFu;
    const u64 low = (a & mask) * (b & mask), left = (a >> 32) * (b & mask), right = (a & mask) * (b >> 32);
    const u64 middle = left + (low >> 32), rest = right + (middle & mask);
    return (a >> 32) * (b >> 32) + (middle >> 32) + (rest >> 32);
}

template <bool wide, bool power>
TV_INLINE u64 quotient(u64 x, const Divisor& d) {
    if (power) return x >> d.shift;
    const u64 high = high_product<wide>(x, d.magic);
    return (high + ((x - high) >> 1)) >> (d.shift - 1);
}

template <bool wide, bool power>
TV_INLINE void divide_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT x, Divisor d, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] = quotient<wide, power>(x[i], d);
}

template <bool wide, bool power>
TV_INLINE u64 mask_quotient(u64 r, const Divisor& d) {
    const u64 q = quotient<wide, power>(r, d);
    if (power) return q;  // 2^62 mod d is 0
    return q + static_cast<u64>(r - q * d.d + d.carry >= d.d);
}

template <bool wide, bool power>
TV_INLINE void mask_range(u64* TV_RESTRICT q, u64* TV_RESTRICT top, const u64* TV_RESTRICT r, Divisor d, i64 begin,
                          i64 end) {
    for (i64 i = begin; i < end; ++i) {
        q[i] = mask_quotient<wide, power>(r[i], d);
        top[i] = r[i] >> 63;
    }
}

template <bool wide, bool power>
TV_INLINE void mask_gated_range(u64* TV_RESTRICT q1, u64* TV_RESTRICT q0, u64* TV_RESTRICT t1, u64* TV_RESTRICT t0,
                                const u64* TV_RESTRICT r, const u64* TV_RESTRICT bit, Divisor d, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        const u64 chosen = 0 - bit[i], q = mask_quotient<wide, power>(r[i], d), t = r[i] >> 63;
        q1[i] = q & chosen;
        q0[i] = q & ~chosen;
        t1[i] = t & chosen;
        t0[i] = t & ~chosen;
    }
}

// (floor(v / d) - base, (1 - v_top) (Q1 - Q0)) as in the gate's formula.
template <bool wide, bool power>
TV_INLINE u64 quotients(u64 opened, const Divisor& d, u64& jump) {
    const u64 v = opened + (u64{1} << 62), q = quotient<wide, power>(v, d);
    jump = d.step;
    if (!power) jump += static_cast<u64>(v - q * d.d + d.rest >= d.d);
    jump &= (v >> 63) - 1;
    return q - d.base;
}

template <bool wide, bool power>
TV_INLINE void truncate_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT opened, const u64* TV_RESTRICT dealt,
                              const u64* TV_RESTRICT top, u64 first, Divisor d, i64 begin, i64 end) {
    const u64 adds = 0 - first;
    for (i64 i = begin; i < end; ++i) {
        u64 jump;
        const u64 q = quotients<wide, power>(opened[i], d, jump);
        out[i] = jump * top[i] - dealt[i] + (q & adds);
    }
}

template <bool wide, bool power>
TV_INLINE void truncate_gated_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT opened, const u64* TV_RESTRICT q1,
                                    const u64* TV_RESTRICT q0, const u64* TV_RESTRICT t1, const u64* TV_RESTRICT t0,
                                    const u64* TV_RESTRICT flip, const u64* TV_RESTRICT bit, u64 first, Divisor d,
                                    i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        u64 jump;
        const u64 q = quotients<wide, power>(opened[i], d, jump), flipped = 0 - flip[i];
        const u64 dealt = (q0[i] & flipped) | (q1[i] & ~flipped), top = (t0[i] & flipped) | (t1[i] & ~flipped);
        // flip + (1 - 2 flip) r, the first summand at the first party
        const u64 share = (bit[i] ^ flipped) - flipped + (flip[i] & (0 - first));
        out[i] = jump * top - dealt + q * share;
    }
}

// Each range function for each instruction set and kind of divisor.
#ifdef TV_X86
#define TV_EACH_LEVEL(name, signature, arguments)                                            \
    TV_AVX512 void name##_avx512 signature {                                                 \
        d.magic == 0 ? name##_range<false, true> arguments : name##_range<false, false> arguments; \
    }                                                                                        \
    TV_AVX2 void name##_avx2 signature {                                                     \
        d.magic == 0 ? name##_range<true, true> arguments : name##_range<true, false> arguments;   \
    }                                                                                        \
    void name##_portable signature {                                                         \
        d.magic == 0 ? name##_range<true, true> arguments : name##_range<true, false> arguments;   \
    }                                                                                        \
    void name##_any signature {                                                              \
        switch (cpu().level) {                                                               \
            case Level::avx512: return name##_avx512 arguments;                              \
            case Level::avx2: return name##_avx2 arguments;                                  \
            case Level::portable: return name##_portable arguments;                          \
        }                                                                                    \
    }
#else
#define TV_EACH_LEVEL(name, signature, arguments)                                            \
    void name##_any signature {                                                              \
        d.magic == 0 ? name##_range<true, true> arguments : name##_range<true, false> arguments;   \
    }
#endif

TV_EACH_LEVEL(divide, (u64* out, const u64* x, const Divisor& d, i64 begin, i64 end), (out, x, d, begin, end))
TV_EACH_LEVEL(mask, (u64* q, u64* top, const u64* r, const Divisor& d, i64 begin, i64 end),
              (q, top, r, d, begin, end))
TV_EACH_LEVEL(mask_gated,
              (u64* q1, u64* q0, u64* t1, u64* t0, const u64* r, const u64* bit, const Divisor& d, i64 begin, i64 end),
              (q1, q0, t1, t0, r, bit, d, begin, end))
TV_EACH_LEVEL(truncate,
              (u64* out, const u64* opened, const u64* dealt, const u64* top, u64 first, const Divisor& d, i64 begin,
               i64 end),
              (out, opened, dealt, top, first, d, begin, end))
TV_EACH_LEVEL(truncate_gated,
              (u64* out, const u64* opened, const u64* q1, const u64* q0, const u64* t1, const u64* t0, const u64* flip,
               const u64* bit, u64 first, const Divisor& d, i64 begin, i64 end),
              (out, opened, q1, q0, t1, t0, flip, bit, first, d, begin, end))

template <class Body>
void each_block(i64 count, int threads, const Body& body) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        for (i64 at = begin; at < end; at += kBlock) body(at, std::min(kBlock, end - at));
    });
}

}  // namespace

Divisor::Divisor(u64 divisor) : d(divisor), magic(0), shift(0) {
    using u128 = unsigned __int128;
    const u128 ring = u128{1} << 64;
    while ((u64{1} << shift) < d) ++shift;
    if ((d & (d - 1)) != 0) magic = static_cast<u64>((ring * ((u64{1} << shift) - d)) / d + 1);
    carry = (u64{1} << 62) % d;
    base = (u64{1} << 62) / d;
    step = static_cast<u64>(ring / d);
    rest = static_cast<u64>(ring % d);
}

void divide(u64* out, const u64* x, i64 count, const Divisor& d, int threads) {
    parallel_ranges(threads, count, kGrain, 64, [&](i64 begin, i64 end) { divide_any(out, x, d, begin, end); });
}

void mask_quotients(u64* const (&out)[4], const Pads (&pads)[4], const u64* r, const u64* bit, i64 count,
                    const Divisor& d, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        if (bit == nullptr) {
            mask_any(out[0], out[1], r, d, at, at + size);
        } else {
            mask_gated_any(out[0], out[1], out[2], out[3], r, bit, d, at, at + size);
        }
        for (int i = 0; i < 4; ++i) take_off(pads[i], out[i], at, at + size);
    });
}

void truncate(u64* out, const u64* opened, const TruncationPieces& pieces, bool first, i64 count, const Divisor& d,
              int threads) {
    const u64 adds = first ? 1 : 0;
    each_block(count, threads, [&](i64 at, i64 size) {
        alignas(64) u64 drawn[4][kBlock + Source::kSlack];
        const u64* const q1 = pieces.quotient[0].ring(at, size, drawn[0]);
        const u64* const t1 = pieces.top[0].ring(at, size, drawn[1]);
        if (pieces.flip == nullptr) return truncate_any(out + at, opened + at, q1, t1, adds, d, 0, size);
        const u64* const q0 = pieces.quotient[1].ring(at, size, drawn[2]);
        const u64* const t0 = pieces.top[1].ring(at, size, drawn[3]);
        truncate_gated_any(out + at, opened + at, q1, q0, t1, t0, pieces.flip + at, pieces.bit + at, adds, d, 0, size);
    });
}

}  // namespace tv
