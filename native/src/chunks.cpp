// Theory of operation. Elements are taken 32 at a time (16 without AVX-512) and their four 16-bit words are sorted into
// four registers, whose lanes are then shifted and masked to give one digit each. A look-up is a test of one bit of the
// dealt word, selected by 1 << digit; its result is a mask register, which is the packed plane.

#include "chunks.h"

#include <algorithm>
#include <cstring>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kGrain = 1 << 15;

// Elements are taken a block at a time, so that every plane and every row of tables is touched in whole cache lines: rows
// lie a power of two apart and would otherwise push each other out of the cache. A dealt table that is keystream is
// drawn a block at a time as well.
constexpr i64 kBlock = 512;

struct Leaf {
    LeafOut out;
    const u64* opened;
    const u16* rows[16];  // of the dealt table, from element `origin` on
    i64 origin;
    const u64* thresholds;
    i64 n;
    i64 count;
    bool negate;
    bool full;
    bool first;

    i64 bytes() const { return (count + 7) / 8; }
};

struct Tables {
    u16* out;
    u8* tops;
    const u64* x;
    i64 count;
    bool negate;
    bool full;
};

// --- portable ----------------------------------------------------------------------------------------------------

void tables_portable(const Tables& t, i64 begin, i64 end) {
    for (int k = 0; k < 16; ++k) {
        const u64 valid = k == 15 && !t.full ? 7 : 15, sign = t.negate ? ~u64{0} : 0;
        u16* const row = t.out + k * t.count;
        for (i64 i = begin; i < end; ++i) {
            const u64 v = (t.x[i] ^ sign) - sign;
            row[i] = static_cast<u16>((1u << ((v >> (4 * k)) & valid)) - 1);
        }
    }
    for (i64 i = begin; t.tops != nullptr && i < end; i += 8) {
        u32 packed = 0;
        for (i64 b = 0; b < std::min<i64>(8, end - i); ++b) {
            const u64 v = t.negate ? 0 - t.x[i + b] : t.x[i + b];
            packed |= static_cast<u32>(v >> 63) << b;
        }
        t.tops[i / 8] = static_cast<u8>(packed);
    }
}

void leaf_portable(const Leaf& l, i64 begin, i64 end) {
    const i64 bytes = l.bytes();
    for (i64 j = 0; j < l.n; ++j) {
        for (i64 i = begin; i < end; i += 8) {
            const i64 real = std::min<i64>(8, end - i);
            u64 v[8];
            u32 top = 0;
            for (i64 b = 0; b < real; ++b) {
                v[b] = (l.negate ? 0 - l.opened[i + b] : l.opened[i + b]) - l.thresholds[j];
                top |= static_cast<u32>(v[b] >> 63) << b;
            }
            if (l.out.tops != nullptr) l.out.tops[j * bytes + i / 8] = static_cast<u8>(top);
            for (int k = 0; k < 16; ++k) {
                u32 less = 0, at_most = 0;
                for (i64 b = 0; b < real; ++b) {
                    const u32 digit = (v[b] >> (4 * k)) & (k == 15 && !l.full ? 7u : 15u);
                    const u32 table = l.rows[k][i - l.origin + b];
                    less |= ((table >> digit) & 1u) << b;
                    at_most |= (((table << 1 | (l.first ? 1u : 0u)) >> digit) & 1u) << b;
                }
                const i64 place = (k * l.n + j) * bytes + i / 8;
                if (l.out.less != nullptr) l.out.less[place] = static_cast<u8>(less);
                l.out.equal[place] = static_cast<u8>(less ^ at_most);
            }
        }
    }
}

#ifdef TV_X86

// --- avx2 --------------------------------------------------------------------------------------------------------

// words[w] lane i = 16-bit word w of element i, for 16 elements.
TV_AVX2 TV_INLINE void sort_words(const u64 (&v)[16], __m256i (&words)[4]) {
    alignas(32) u16 sorted[4][16];
    for (int i = 0; i < 16; ++i) {
        for (int w = 0; w < 4; ++w) sorted[w][i] = static_cast<u16>(v[i] >> (16 * w));
    }
    for (int w = 0; w < 4; ++w) words[w] = _mm256_load_si256(reinterpret_cast<const __m256i*>(sorted[w]));
}

// 1 << digit in each 16-bit lane, by two look-ups of constants inside registers.
TV_AVX2 TV_INLINE __m256i one_hot(__m256i digit) {
    const __m256i low = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, static_cast<char>(128), 0, 0, 0, 0, 0, 0, 0, 0));
    const __m256i high = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, static_cast<char>(128)));
    const __m256i below = _mm256_and_si256(_mm256_shuffle_epi8(low, digit), _mm256_set1_epi16(0xFF));
    return _mm256_or_si256(below, _mm256_slli_epi16(_mm256_shuffle_epi8(high, digit), 8));
}

// Bit i: lane i of a & b is not zero.
TV_AVX2 TV_INLINE u32 test_lanes(__m256i a, __m256i b) {
    const __m256i zero = _mm256_cmpeq_epi16(_mm256_and_si256(a, b), _mm256_setzero_si256());
    const __m128i packed = _mm_packs_epi16(_mm256_castsi256_si128(zero), _mm256_extracti128_si256(zero, 1));
    return ~static_cast<u32>(_mm_movemask_epi8(packed)) & 0xFFFFu;
}

TV_AVX2 void tables_avx2(const Tables& t, i64 begin, i64 end) {
    const __m256i one = _mm256_set1_epi16(1), nibble = _mm256_set1_epi16(15), short_digit = _mm256_set1_epi16(7);
    i64 i = begin;
    for (; i + 16 <= end; i += 16) {
        u64 v[16];
        u32 tops = 0;
        for (int b = 0; b < 16; ++b) {
            v[b] = t.negate ? 0 - t.x[i + b] : t.x[i + b];
            tops |= static_cast<u32>(v[b] >> 63) << b;
        }
        const u16 packed = static_cast<u16>(tops);
        if (t.tops != nullptr) std::memcpy(t.tops + i / 8, &packed, 2);
        __m256i words[4];
        sort_words(v, words);
        for (int k = 0; k < 16; ++k) {
            const __m256i valid = k == 15 && !t.full ? short_digit : nibble;
            const __m256i digit = _mm256_and_si256(_mm256_srl_epi16(words[k / 4], _mm_cvtsi32_si128(4 * (k % 4))), valid);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(t.out + k * t.count + i),
                                _mm256_sub_epi16(one_hot(digit), one));
        }
    }
    if (i < end) tables_portable(t, i, end);
}

TV_AVX2 void leaf_avx2(const Leaf& l, i64 begin, i64 end) {
    const i64 bytes = l.bytes();
    const __m256i nibble = _mm256_set1_epi16(15), short_digit = _mm256_set1_epi16(7);
    const __m256i start = _mm256_set1_epi16(l.first ? 1 : 0);
    i64 i = begin;
    for (; i + 16 <= end; i += 16) {
        for (i64 j = 0; j < l.n; ++j) {
            u64 v[16];
            u32 tops = 0;
            for (int b = 0; b < 16; ++b) {
                v[b] = (l.negate ? 0 - l.opened[i + b] : l.opened[i + b]) - l.thresholds[j];
                tops |= static_cast<u32>(v[b] >> 63) << b;
            }
            const u16 packed = static_cast<u16>(tops);
            if (l.out.tops != nullptr) std::memcpy(l.out.tops + j * bytes + i / 8, &packed, 2);
            __m256i words[4];
            sort_words(v, words);
            for (int k = 0; k < 16; ++k) {
                const __m256i valid = k == 15 && !l.full ? short_digit : nibble;
                const __m256i digit =
                    _mm256_and_si256(_mm256_srl_epi16(words[k / 4], _mm_cvtsi32_si128(4 * (k % 4))), valid);
                const __m256i hot = one_hot(digit);
                const __m256i table =
                    _mm256_loadu_si256(reinterpret_cast<const __m256i*>(l.rows[k] + (i - l.origin)));
                const u32 less = test_lanes(table, hot);
                const u32 at_most = test_lanes(_mm256_or_si256(_mm256_slli_epi16(table, 1), start), hot);
                const u16 lt = static_cast<u16>(less), eq = static_cast<u16>(less ^ at_most);
                const i64 place = (k * l.n + j) * bytes + i / 8;
                if (l.out.less != nullptr) std::memcpy(l.out.less + place, &lt, 2);
                std::memcpy(l.out.equal + place, &eq, 2);
            }
        }
    }
    if (i < end) leaf_portable(l, i, end);
}

// --- avx512 ------------------------------------------------------------------------------------------------------

// words[w] lane i = 16-bit word w of element i, for the 32 elements of v.
TV_AVX512 TV_INLINE void sort_words(const __m512i (&v)[4], __m512i (&words)[4]) {
    // lanes 0-15 of the index: word w of the 16 elements of two registers; lanes 16-31: word w + 1
    alignas(64) static const u16 kIndex[2][32] = {
        {0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60,
         1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61},
        {2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62,
         3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59, 63}};
#pragma GCC unroll 2
    for (int w = 0; w < 2; ++w) {
        const __m512i index = _mm512_load_si512(kIndex[w]);
        const __m512i low = _mm512_permutex2var_epi16(v[0], index, v[1]);
        const __m512i high = _mm512_permutex2var_epi16(v[2], index, v[3]);
        words[2 * w] = _mm512_shuffle_i64x2(low, high, 0x44);
        words[2 * w + 1] = _mm512_shuffle_i64x2(low, high, 0xEE);
    }
}

// Elements i .. i + 31 (those of `lanes`), negated if asked for.
TV_AVX512 TV_INLINE void load(const u64* x, u32 lanes, bool negate, __m512i (&v)[4]) {
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) {
        v[b] = _mm512_maskz_loadu_epi64(static_cast<__mmask8>(lanes >> (8 * b)), x + 8 * b);
        if (negate) v[b] = _mm512_sub_epi64(_mm512_setzero_si512(), v[b]);
    }
}

TV_AVX512 TV_INLINE u32 top_bits(const __m512i (&v)[4]) {
    u32 tops = 0;
#pragma GCC unroll 4
    for (int b = 0; b < 4; ++b) tops |= static_cast<u32>(_mm512_movepi64_mask(v[b])) << (8 * b);
    return tops;
}

// words[w][i] = 16-bit word w of +-x[i] - threshold for `real` elements; their packed top bits to `tops` if not null.
TV_AVX512 TV_INLINE void sort_block(u16 (&words)[4][kBlock], u8* tops, const u64* x, i64 real, bool negate,
                                    u64 threshold) {
    const __m512i less = _mm512_set1_epi64(static_cast<long long>(threshold));
    for (i64 i = 0; i < real; i += 32) {
        const i64 left = std::min<i64>(32, real - i);
        const u32 lanes = left == 32 ? ~0u : (1u << left) - 1;
        __m512i v[4], sorted[4];
        load(x + i, lanes, negate, v);
#pragma GCC unroll 4
        for (int b = 0; b < 4; ++b) v[b] = _mm512_sub_epi64(v[b], less);
        if (tops != nullptr) {
            const u32 packed = top_bits(v) & lanes;
            std::memcpy(tops + i / 8, &packed, static_cast<std::size_t>((left + 7) / 8));
        }
        sort_words(v, sorted);
#pragma GCC unroll 4
        for (int w = 0; w < 4; ++w) _mm512_store_si512(words[w] + i, sorted[w]);
    }
}

TV_AVX512 void tables_avx512(const Tables& t, i64 begin, i64 end) {
    const __m512i one = _mm512_set1_epi16(1);
    alignas(64) u16 words[4][kBlock];
    for (i64 at = begin; at < end; at += kBlock) {
        const i64 real = std::min(kBlock, end - at);
        sort_block(words, t.tops == nullptr ? nullptr : t.tops + at / 8, t.x + at, real, t.negate, 0);
        for (int k = 0; k < 16; ++k) {
            const __m512i valid = _mm512_set1_epi16(k == 15 && !t.full ? 7 : 15);
            const __m128i shift = _mm_cvtsi32_si128(4 * (k % 4));
            u16* const row = t.out + k * t.count + at;
            for (i64 i = 0; i < real; i += 32) {
                const i64 left = std::min<i64>(32, real - i);
                const u32 lanes = left == 32 ? ~0u : (1u << left) - 1;
                const __m512i word = _mm512_load_si512(words[k / 4] + i);
                const __m512i digit = _mm512_and_si512(_mm512_srl_epi16(word, shift), valid);
                _mm512_mask_storeu_epi16(row + i, lanes, _mm512_sub_epi16(_mm512_sllv_epi16(one, digit), one));
            }
        }
    }
}

TV_AVX512 void leaf_avx512(const Leaf& l, i64 begin, i64 end) {
    const i64 bytes = l.bytes();
    const __m512i one = _mm512_set1_epi16(1), start = _mm512_set1_epi16(l.first ? 1 : 0);
    alignas(64) u16 words[4][kBlock];
    for (i64 at = begin; at < end; at += kBlock) {
        const i64 real = std::min(kBlock, end - at);
        for (i64 j = 0; j < l.n; ++j) {
            u8* const tops = l.out.tops == nullptr ? nullptr : l.out.tops + j * bytes + at / 8;
            sort_block(words, tops, l.opened + at, real, l.negate, l.thresholds[j]);
            for (int k = 0; k < 16; ++k) {
                const __m512i valid = _mm512_set1_epi16(k == 15 && !l.full ? 7 : 15);
                const __m128i shift = _mm_cvtsi32_si128(4 * (k % 4));
                const u16* const row = l.rows[k] + (at - l.origin);
                u32 less[kBlock / 32], equal[kBlock / 32];
                for (i64 i = 0; i < real; i += 32) {
                    const i64 left = std::min<i64>(32, real - i);
                    const u32 lanes = left == 32 ? ~0u : (1u << left) - 1;
                    const __m512i word = _mm512_load_si512(words[k / 4] + i);
                    const __m512i hot = _mm512_sllv_epi16(one, _mm512_and_si512(_mm512_srl_epi16(word, shift), valid));
                    const __m512i table = _mm512_maskz_loadu_epi16(lanes, row + i);
                    if (j == 0) __builtin_prefetch(row + i + kBlock);  // 16 rows are too many streams for the hardware
                    const __m512i shifted = _mm512_or_si512(_mm512_slli_epi16(table, 1), start);
                    less[i / 32] = _mm512_test_epi16_mask(table, hot);
                    equal[i / 32] = (less[i / 32] ^ _mm512_test_epi16_mask(shifted, hot)) & lanes;
                }
                const i64 place = (k * l.n + j) * bytes + at / 8;
                const std::size_t size = static_cast<std::size_t>((real + 7) / 8);
                if (l.out.less != nullptr) std::memcpy(l.out.less + place, less, size);
                std::memcpy(l.out.equal + place, equal, size);
            }
        }
    }
}

#endif  // TV_X86

void tables_any(const Tables& t, i64 begin, i64 end) {
#ifdef TV_X86
    if (cpu().level == Level::avx512) return tables_avx512(t, begin, end);
    if (cpu().level == Level::avx2) return tables_avx2(t, begin, end);
#endif
    tables_portable(t, begin, end);
}

void leaf_any(const Leaf& l, i64 begin, i64 end) {
#ifdef TV_X86
    if (cpu().level == Level::avx512) return leaf_avx512(l, begin, end);
    if (cpu().level == Level::avx2) return leaf_avx2(l, begin, end);
#endif
    leaf_portable(l, begin, end);
}

template <class Body>
void each_block(i64 count, int threads, const Body& body) {
    parallel_ranges(threads, count, kGrain, kBlock, [&](i64 begin, i64 end) {
        for (i64 at = begin; at < end; at += kBlock) body(at, std::min(kBlock, end - at));
    });
}

}  // namespace

void unary_tables(u16* out, const Pads& pads, u8* tops, const u64* x, i64 count, bool negate, bool full, int threads) {
    const Tables t{out, tops, x, count, negate, full};
    each_block(count, threads, [&](i64 at, i64 size) {
        tables_any(t, at, at + size);
        for (int k = 0; k < 16 && !pads.empty(); ++k) {
            const i64 place = k * count + at;
            blind(pads, reinterpret_cast<u8*>(out + place), 2 * place, 2 * size);
        }
    });
}

void unary_leaf(const LeafOut& out, const u64* opened, const Source& tables, const u64* thresholds, i64 n, i64 count,
                bool negate, bool full, bool first, int threads) {
    each_block(count, threads, [&](i64 at, i64 size) {
        alignas(64) u8 drawn[16][2 * kBlock + 64];
        Leaf l{out, opened, {}, at, thresholds, n, count, negate, full, first};
        for (int k = 0; k < 16; ++k) {
            l.rows[k] = reinterpret_cast<const u16*>(tables.bytes(2 * (k * count + at), 2 * size, drawn[k]));
        }
        leaf_any(l, at, at + size);
    });
}

}  // namespace tv
