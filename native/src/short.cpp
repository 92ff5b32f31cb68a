// Theory of operation. The formulas are those of gates.opening and gates.lift, for k = 16 in a ring of 64 bits. All loops
// are without branches and compiled for each instruction set; what is drawn for a block stays in the first-level cache, so
// every operand is read once and every result written once.

#include "short.h"

#include <algorithm>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kGrain = 1 << 15;
constexpr i64 kBlock = 512;

TV_INLINE u64 sixteenth(u64 x) { return static_cast<u64>(static_cast<i64>(x) >> 16); }

// With V the signed opening: whether V < -2^62, and whether the top bit of V + 2^62 is 0, so that a wrap is possible.
TV_INLINE u64 is_below(u64 opened) { return (opened >> 63) & ~(opened >> 62) & 1; }
TV_INLINE u64 may_wrap(u64 opened) { return 1 ^ (((opened >> 63) ^ (opened >> 62)) & 1); }

TV_INLINE void round_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT value, u64 low, u64 more, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] = (value[i] + more) & ~low;
}

TV_INLINE void mask_range(u16* TV_RESTRICT low, u32* TV_RESTRICT high, u64* TV_RESTRICT mask, const u64* TV_RESTRICT value,
                          const u64* TV_RESTRICT drawn, i64 size) {
    for (i64 i = 0; i < size; ++i) {
        const u64 sum = sixteenth(value[i]) + drawn[i];
        mask[i] = drawn[i];
        low[i] = static_cast<u16>(sum);
        high[i] = static_cast<u32>(sum >> 16);
    }
}

TV_INLINE void add_range(u64* TV_RESTRICT out, const u16* TV_RESTRICT low, const u32* TV_RESTRICT high, u64 old, i64 begin,
                         i64 end) {
    for (i64 i = begin; i < end; ++i) {
        const u64 value = (static_cast<u64>(high[i]) << 32) + (static_cast<u64>(low[i]) << 16);
        out[i] = value + (out[i] & old);
    }
}

TV_INLINE void rows_range(u16* TV_RESTRICT upper, u16* TV_RESTRICT top, const u64* TV_RESTRICT mask, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        upper[i] = static_cast<u16>(mask[i] >> 48);
        top[i] = static_cast<u16>((mask[i] >> 47) & 1);
    }
}

TV_INLINE void rows_gated_range(u16* TV_RESTRICT chosen, u64* TV_RESTRICT gated, const u64* TV_RESTRICT mask,
                                const u64* TV_RESTRICT bit, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
        chosen[i] = static_cast<u16>((mask[i] >> 47) & bit[i]);
        gated[i] = (mask[i] & ((u64{1} << 48) - 1)) & (0 - bit[i]);
    }
}

TV_INLINE void lift_range(u64* TV_RESTRICT out, u16* TV_RESTRICT upper, const u64* TV_RESTRICT opened,
                          const u16* TV_RESTRICT row, const u16* TV_RESTRICT top, const u64* TV_RESTRICT mask, u64 first,
                          i64 size) {
    const u64 adds = 0 - first;
    for (i64 i = 0; i < size; ++i) {
        const u64 v = opened[i], sum = row[i] + (top[i] & (0 - may_wrap(v)));
        upper[i] = static_cast<u16>(sum);
        out[i] = (sixteenth(v) & adds) - mask[i] + ((sum + (is_below(v) & adds)) << 48);
    }
}

TV_INLINE void lift_gated_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT opened, const u16* TV_RESTRICT row,
                                const u16* TV_RESTRICT top, const u16* TV_RESTRICT chosen, const u64* TV_RESTRICT mask,
                                const u64* TV_RESTRICT dealt, const u64* TV_RESTRICT flip, const u64* TV_RESTRICT bit,
                                u64 first, i64 size) {
    const u64 adds = 0 - first;
    for (i64 i = 0; i < size; ++i) {
        const u64 v = opened[i], wraps = 0 - may_wrap(v), base = sixteenth(v) + (is_below(v) << 48);
        const u64 share = (base & adds) - mask[i] + ((row[i] + (top[i] & wraps)) << 48);
        const u64 product = base * bit[i] - dealt[i] + ((chosen[i] & wraps) << 48), flipped = 0 - flip[i];
        out[i] = (share & flipped) + ((product ^ flipped) - flipped);
    }
}

TV_INLINE void complete_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT opened, const u16* TV_RESTRICT upper, i64 begin,
                              i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] = sixteenth(opened[i]) + ((upper[i] + is_below(opened[i])) << 48);
}

TV_INLINE void scale_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT a, u64 f, u64 constant, i64 begin, i64 end) {
    if (f == 1) {
        for (i64 i = begin; i < end; ++i) out[i] = constant + a[i];
    } else {
        for (i64 i = begin; i < end; ++i) out[i] = constant + f * a[i];
    }
}

// Sums and differences of two are what most combinations are.
TV_INLINE void pair_range(u64* TV_RESTRICT out, const u64* a, const u64* b, u64 f, u64 g, u64 constant, i64 begin, i64 end) {
    if (f == 1 && g + 1 <= 2) {
        const u64 turn = g == 1 ? 0 : ~u64{0};
        for (i64 i = begin; i < end; ++i) out[i] = constant + a[i] + ((b[i] ^ turn) - turn);
    } else {
        for (i64 i = begin; i < end; ++i) out[i] = constant + f * a[i] + g * b[i];
    }
}

TV_INLINE void more_range(u64* TV_RESTRICT out, const u64* TV_RESTRICT a, u64 f, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] += f * a[i];
}

#ifdef TV_X86
#define TV_EACH_LEVEL(name, signature, arguments)                      \
    TV_AVX512 void name##_avx512 signature { name##_range arguments; } \
    TV_AVX2 void name##_avx2 signature { name##_range arguments; }     \
    void name##_portable signature { name##_range arguments; }         \
    void name##_any signature {                                        \
        switch (cpu().level) {                                         \
            case Level::avx512: return name##_avx512 arguments;        \
            case Level::avx2: return name##_avx2 arguments;            \
            case Level::portable: return name##_portable arguments;    \
        }                                                              \
    }
#else
#define TV_EACH_LEVEL(name, signature, arguments) \
    void name##_any signature { name##_range arguments; }
#endif

TV_EACH_LEVEL(round, (u64* out, const u64* value, u64 low, u64 more, i64 begin, i64 end), (out, value, low, more, begin, end))
TV_EACH_LEVEL(mask, (u16* low, u32* high, u64* mask, const u64* value, const u64* drawn, i64 size),
              (low, high, mask, value, drawn, size))
TV_EACH_LEVEL(add, (u64* out, const u16* low, const u32* high, u64 old, i64 begin, i64 end),
              (out, low, high, old, begin, end))
TV_EACH_LEVEL(rows, (u16* upper, u16* top, const u64* mask, i64 begin, i64 end), (upper, top, mask, begin, end))
TV_EACH_LEVEL(rows_gated, (u16* chosen, u64* gated, const u64* mask, const u64* bit, i64 begin, i64 end),
              (chosen, gated, mask, bit, begin, end))
TV_EACH_LEVEL(lift,
              (u64* out, u16* upper, const u64* opened, const u16* row, const u16* top, const u64* mask, u64 first, i64 size),
              (out, upper, opened, row, top, mask, first, size))
TV_EACH_LEVEL(lift_gated,
              (u64* out, const u64* opened, const u16* row, const u16* top, const u16* chosen, const u64* mask,
               const u64* dealt, const u64* flip, const u64* bit, u64 first, i64 size),
              (out, opened, row, top, chosen, mask, dealt, flip, bit, first, size))
TV_EACH_LEVEL(complete, (u64* out, const u64* opened, const u16* upper, i64 begin, i64 end),
              (out, opened, upper, begin, end))
TV_EACH_LEVEL(scale, (u64* out, const u64* a, u64 f, u64 constant, i64 begin, i64 end), (out, a, f, constant, begin, end))
TV_EACH_LEVEL(pair, (u64* out, const u64* a, const u64* b, u64 f, u64 g, u64 constant, i64 begin, i64 end),
              (out, a, b, f, g, constant, begin, end))
TV_EACH_LEVEL(more, (u64* out, const u64* a, u64 f, i64 begin, i64 end), (out, a, f, begin, end))

template <class Body>
void each_block(i64 count, int threads, const Body& body) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        for (i64 at = begin; at < end; at += kBlock) body(at, std::min(kBlock, end - at));
    });
}

// A row of words [at, at + size) of rows of `count`, drawn into `scratch` if need be.
struct Row {
    alignas(64) u16 scratch[kBlock + Source::kSlack];
    const u16* words(const Source& rows, i64 row, i64 count, i64 at, i64 size) {
        return reinterpret_cast<const u16*>(rows.bytes(2 * (row * count + at), 2 * size, reinterpret_cast<u8*>(scratch)));
    }
};

}  // namespace

void round_share(u64* out, const u64* value, u64 low, bool up, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, kBlock,
                    [&](i64 begin, i64 end) { round_any(out, value, low, up ? low : 0, begin, end); });
}

void mask_short(const ShortPiece& piece, u64* mask, const u64* value, const Source& drawn, i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        alignas(64) u64 scratch[kBlock + Source::kSlack];
        const u64* const stream = drawn.ring(at, size, scratch);
        mask_any(piece.low + at, piece.high + at, mask + at, value + at, stream, size);
    });
}

void add_short(u64* out, const ShortPiece* pieces, int n, i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        for (int i = 0; i < n; ++i) add_any(out, pieces[i].low, pieces[i].high, i == 0 ? 0 : ~u64{0}, at, at + size);
    });
}

void lift_rows(u16* rows, const Pads& pads, u64* gated, const u64* mask, const u64* bit, i64 count, int threads) {
    const int n = bit == nullptr ? 2 : 3;
    each_block(count, threads, [&](i64 at, i64 size) {
        rows_any(rows, rows + count, mask, at, at + size);
        if (bit != nullptr) rows_gated_any(rows + 2 * count, gated, mask, bit, at, at + size);
        for (int row = 0; row < n; ++row) {
            u16* const to = rows + row * count + at;
            for (const Source& pad : pads) {
                Row drawn;
                const u16* const words = drawn.words(pad, row, count, at, size);
                for (i64 i = 0; i < size; ++i) to[i] = static_cast<u16>(to[i] - words[i]);
            }
        }
    });
}

void lift(u64* out, u16* upper, const LiftPieces& p, i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        Row row, top;
        lift_any(out + at, upper + at, p.opened + at, row.words(p.rows, 0, count, at, size),
                 top.words(p.rows, 1, count, at, size), p.mask + at, p.first ? 1 : 0, size);
    });
}

void lift_gated(u64* out, const LiftPieces& p, const Source& dealt, const u64* flip, const u64* bit, i64 count,
                int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        Row row, top, chosen;
        alignas(64) u64 scratch[kBlock + Source::kSlack];
        lift_gated_any(out + at, p.opened + at, row.words(p.rows, 0, count, at, size), top.words(p.rows, 1, count, at, size),
                       chosen.words(p.rows, 2, count, at, size), p.mask + at, dealt.ring(at, size, scratch), flip + at,
                       bit + at, p.first ? 1 : 0, size);
    });
}

void complete(u64* out, const u64* opened, const u16* upper, i64 count, int threads) {
    parallel_ranges(threads, count, kGrain, kBlock,
                    [&](i64 begin, i64 end) { complete_any(out, opened, upper, begin, end); });
}

void combine(u64* out, const u64* const* values, const u64* factors, int n, u64 constant, i64 count, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        if (n == 1) return scale_any(out, values[0], factors[0], constant, at, at + size);
        pair_any(out, values[0], values[1], factors[0], factors[1], constant, at, at + size);
        for (int i = 2; i < n; ++i) more_any(out, values[i], factors[i], at, at + size);
    });
}

}  // namespace tv
