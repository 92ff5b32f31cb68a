// Packing and unpacking, least significant bit first.

#include "bits.h"

#include <algorithm>
#include <cstring>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kGrain = 1 << 15;

void pack_portable(u8* out, const u8* x, i64 begin, i64 end) {
    for (i64 i = begin; i < end; i += 8) {
        u32 packed = 0;
        for (i64 b = 0; b < std::min<i64>(8, end - i); ++b) packed |= static_cast<u32>(x[i + b] != 0) << b;
        out[i / 8] = static_cast<u8>(packed);
    }
}

void pack_top_portable(u8* out, const u64* x, i64 begin, i64 end) {
    for (i64 i = begin; i < end; i += 8) {
        u32 packed = 0;
        for (i64 b = 0; b < std::min<i64>(8, end - i); ++b) packed |= static_cast<u32>(x[i + b] >> 63) << b;
        out[i / 8] = static_cast<u8>(packed);
    }
}

template <class T>
void unpack_portable(T* out, const u8* packed, i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) out[i] = static_cast<T>((packed[i / 8] >> (i % 8)) & 1);
}

#ifdef TV_X86

TV_AVX2 void pack_avx2(u8* out, const u8* x, i64 begin, i64 end) {
    i64 i = begin;
    for (; i + 32 <= end; i += 32) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
        const u32 packed =
            ~static_cast<u32>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, _mm256_setzero_si256())));
        std::memcpy(out + i / 8, &packed, 4);
    }
    pack_portable(out, x, i, end);
}

TV_AVX2 void pack_top_avx2(u8* out, const u64* x, i64 begin, i64 end) {
    i64 i = begin;
    for (; i + 8 <= end; i += 8) {
        const __m256d low = _mm256_castsi256_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)));
        const __m256d high = _mm256_castsi256_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i + 4)));
        out[i / 8] = static_cast<u8>(_mm256_movemask_pd(low) | _mm256_movemask_pd(high) << 4);
    }
    pack_top_portable(out, x, i, end);
}

TV_AVX512 void pack_top_avx512(u8* out, const u64* x, i64 begin, i64 end) {
    i64 i = begin;
    for (; i + 8 <= end; i += 8) out[i / 8] = static_cast<u8>(_mm512_movepi64_mask(_mm512_loadu_si512(x + i)));
    pack_top_portable(out, x, i, end);
}

TV_AVX512 void unpack_avx512(u8* out, const u8* packed, i64 begin, i64 end) {
    i64 i = begin;
    for (; i + 64 <= end; i += 64) {
        u64 bits;
        std::memcpy(&bits, packed + i / 8, 8);
        _mm512_storeu_si512(out + i, _mm512_maskz_set1_epi8(bits, 1));
    }
    unpack_portable(out, packed, i, end);
}

TV_AVX512 void unpack_ring_avx512(u64* out, const u8* packed, i64 begin, i64 end) {
    i64 i = begin;
    for (; i + 8 <= end; i += 8) _mm512_storeu_si512(out + i, _mm512_maskz_set1_epi64(packed[i / 8], 1));
    unpack_portable(out, packed, i, end);
}

TV_AVX2 void unpack_ring_avx2(u64* out, const u8* packed, i64 begin, i64 end) {
    const __m256i low = _mm256_setr_epi64x(0, 1, 2, 3), high = _mm256_setr_epi64x(4, 5, 6, 7);
    const __m256i one = _mm256_set1_epi64x(1);
    i64 i = begin;
    for (; i + 8 <= end; i += 8) {
        const __m256i byte = _mm256_set1_epi64x(packed[i / 8]);
        __m256i* const to = reinterpret_cast<__m256i*>(out + i);
        _mm256_storeu_si256(to, _mm256_and_si256(_mm256_srlv_epi64(byte, low), one));
        _mm256_storeu_si256(to + 1, _mm256_and_si256(_mm256_srlv_epi64(byte, high), one));
    }
    unpack_portable(out, packed, i, end);
}

#endif  // TV_X86

// Rows one after the other, each in pieces that begin at a byte of the plane.
template <class Body>
void each_row(i64 rows, i64 count, int threads, const Body& body) {
    for (i64 row = 0; row < rows; ++row) {
        parallel_ranges(threads, count, kGrain, 64, [&](i64 begin, i64 end) { body(row, begin, end); });
    }
}

}  // namespace

void pack_bits(u8* out, const u8* x, i64 rows, i64 count, int threads) {
    const i64 bytes = (count + 7) / 8;
    each_row(rows, count, threads, [&](i64 row, i64 begin, i64 end) {
#ifdef TV_X86
        if (cpu().level >= Level::avx2) return pack_avx2(out + row * bytes, x + row * count, begin, end);
#endif
        pack_portable(out + row * bytes, x + row * count, begin, end);
    });
}

void pack_top_bits(u8* out, const u64* x, i64 rows, i64 count, int threads) {
    const i64 bytes = (count + 7) / 8;
    each_row(rows, count, threads, [&](i64 row, i64 begin, i64 end) {
#ifdef TV_X86
        if (cpu().level == Level::avx512) return pack_top_avx512(out + row * bytes, x + row * count, begin, end);
        if (cpu().level == Level::avx2) return pack_top_avx2(out + row * bytes, x + row * count, begin, end);
#endif
        pack_top_portable(out + row * bytes, x + row * count, begin, end);
    });
}

void unpack_bits(u8* out, const u8* packed, i64 rows, i64 count, int threads) {
    const i64 bytes = (count + 7) / 8;
    each_row(rows, count, threads, [&](i64 row, i64 begin, i64 end) {
#ifdef TV_X86
        if (cpu().level == Level::avx512) return unpack_avx512(out + row * count, packed + row * bytes, begin, end);
#endif
        unpack_portable(out + row * count, packed + row * bytes, begin, end);
    });
}

void unpack_to_ring(u64* out, const u8* packed, i64 rows, i64 count, int threads) {
    const i64 bytes = (count + 7) / 8;
    each_row(rows, count, threads, [&](i64 row, i64 begin, i64 end) {
#ifdef TV_X86
        if (cpu().level == Level::avx512) return unpack_ring_avx512(out + row * count, packed + row * bytes, begin, end);
        if (cpu().level == Level::avx2) return unpack_ring_avx2(out + row * count, packed + row * bytes, begin, end);
#endif
        unpack_portable(out + row * count, packed + row * bytes, begin, end);
    });
}

}  // namespace tv
