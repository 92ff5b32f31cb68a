// Theory of operation. The blocked product of Goto and van de Geijn (ACM TOMS 34(3), 2008): a block of y is packed into
// panels of `nr` columns, a block of x into panels of `mr` rows, and a micro kernel multiplies one panel by the other
// with its accumulators in registers. Packing is where strides, transposition and the subtraction y - minus are dealt
// with, so an operand is never copied as a whole. A product with few columns is computed as its transpose if that
// wastes fewer lanes.
//
// avx512: 8 x 24 with vpmullq. avx2: 6 x 4; a 64-bit product is lo * lo + ((lo * hi + hi * lo) << 32), and the
// two sums have accumulators of their own, so the shift happens once per output. portable: 4 x 4 scalars.

#include "matmul.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "pool.h"

namespace tv {
namespace {

constexpr i64 kDepth = 160;       // k per block: a panel of y (24 columns, 30 kB) and one of x (10 kB) stay in L1
constexpr i64 kRows = 192;        // rows of x per block: 240 kB in L2
constexpr i64 kColumns = 480;     // columns of y per block: 600 kB
constexpr i64 kThreadWork = 1 << 19;  // multiplications below which a second thread does not pay

// What a micro kernel does with its tile: out = [out] +/- tile, with strides; `width` columns of the panel are real.
struct Tile {
    u64* out;
    i64 row;
    i64 column;
    int width;
    bool load;
    bool negative;
};

using Micro = void (*)(i64 depth, const u64* x, const u64* y, i64 y_step, const Tile& tile);
using Pack = void (*)(u64* out, i64 step, int width, i64 depth, const u64* from, i64 across, i64 along, bool subtract);

struct Kernel {
    int mr;                       // rows of a tile
    int nr;                       // columns of a tile
    int lanes;                    // granularity of columns
    const Micro (*micro)[3];      // [rows - 1][column vectors - 1]
    Pack pack;
};

// --- portable ----------------------------------------------------------------------------------------------------

TV_INLINE void finish(const Tile& t, int rows, const u64* sums, int step) {
    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < t.width; ++c) {
            u64& place = t.out[r * t.row + c * t.column];
            const u64 sum = t.negative ? -sums[r * step + c] : sums[r * step + c];
            place = t.load ? place + sum : sum;
        }
    }
}

template <int R>
void micro_portable(i64 depth, const u64* x, const u64* y, i64 y_step, const Tile& tile) {
    u64 sums[R * 4] = {};
    for (i64 k = 0; k < depth; ++k) {
        for (int r = 0; r < R; ++r) {
            for (int c = 0; c < 4; ++c) sums[r * 4 + c] += x[k * 4 + r] * y[k * y_step + c];
        }
    }
    finish(tile, R, sums, 4);
}

void pack_portable(u64* out, i64 step, int width, i64 depth, const u64* from, i64 across, i64 along, bool subtract) {
    for (i64 k = 0; k < depth; ++k) {
        for (int j = 0; j < width; ++j) {
            const u64 value = from[j * across + k * along];
            out[k * step + j] = subtract ? out[k * step + j] - value : value;
        }
    }
}

const Micro kPortable[4][3] = {{micro_portable<1>, nullptr, nullptr},
                               {micro_portable<2>, nullptr, nullptr},
                               {micro_portable<3>, nullptr, nullptr},
                               {micro_portable<4>, nullptr, nullptr}};

#ifdef TV_X86

// --- avx2 --------------------------------------------------------------------------------------------------------

template <int R>
TV_AVX2 void micro_avx2(i64 depth, const u64* x, const u64* y, i64 y_step, const Tile& tile) {
    __m256i low[R], cross[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) low[r] = cross[r] = _mm256_setzero_si256();
    for (i64 k = 0; k < depth; ++k) {
        const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + k * y_step));
        const __m256i swapped = _mm256_shuffle_epi32(b, 0xB1);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m256i a = _mm256_set1_epi64x(static_cast<long long>(x[k * 6 + r]));
            low[r] = _mm256_add_epi64(low[r], _mm256_mul_epu32(a, b));
            cross[r] = _mm256_add_epi32(cross[r], _mm256_mullo_epi32(a, swapped));
        }
    }
    alignas(32) u64 sums[R * 4];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const __m256i high = _mm256_slli_epi64(_mm256_add_epi32(cross[r], _mm256_srli_epi64(cross[r], 32)), 32);
        _mm256_store_si256(reinterpret_cast<__m256i*>(sums + r * 4), _mm256_add_epi64(low[r], high));
    }
    finish(tile, R, sums, 4);
}

const Micro kAvx2[6][3] = {{micro_avx2<1>, nullptr, nullptr}, {micro_avx2<2>, nullptr, nullptr},
                           {micro_avx2<3>, nullptr, nullptr}, {micro_avx2<4>, nullptr, nullptr},
                           {micro_avx2<5>, nullptr, nullptr}, {micro_avx2<6>, nullptr, nullptr}};

// --- avx512 ------------------------------------------------------------------------------------------------------

TV_AVX512 void finish_rows(const Tile& t, int rows, const u64* sums, int step) {
    for (int c = 0; c < t.width; c += 8) {
        const __mmask8 lanes = static_cast<__mmask8>((1u << std::min(8, t.width - c)) - 1);
        for (int r = 0; r < rows; ++r) {
            u64* const place = t.out + r * t.row + c;
            const __m512i old = t.load ? _mm512_maskz_loadu_epi64(lanes, place) : _mm512_setzero_si512();
            const __m512i sum = _mm512_load_si512(sums + r * step + c);
            _mm512_mask_storeu_epi64(place, lanes,
                                     t.negative ? _mm512_sub_epi64(old, sum) : _mm512_add_epi64(old, sum));
        }
    }
}

template <int R, int C>
TV_AVX512 void micro_avx512(i64 depth, const u64* x, const u64* y, i64 y_step, const Tile& tile) {
    __m512i sums[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int c = 0; c < C; ++c) sums[r][c] = _mm512_setzero_si512();
    }
    for (i64 k = 0; k < depth; ++k) {
        __m512i b[C];
#pragma GCC unroll 3
        for (int c = 0; c < C; ++c) b[c] = _mm512_loadu_si512(y + 8 * c);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m512i a = _mm512_set1_epi64(static_cast<long long>(x[r]));
#pragma GCC unroll 3
            for (int c = 0; c < C; ++c) sums[r][c] = _mm512_add_epi64(sums[r][c], _mm512_mullo_epi64(a, b[c]));
        }
        x += 8;
        y += y_step;
    }
    // Through memory, so that the loop above keeps its sums in registers.
    alignas(64) u64 scratch[R * 8 * C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int c = 0; c < C; ++c) _mm512_store_si512(scratch + (r * C + c) * 8, sums[r][c]);
    }
    if (tile.column == 1) {
        finish_rows(tile, R, scratch, 8 * C);
    } else {
        finish(tile, R, scratch, 8 * C);
    }
}

#define TV_ROW(R) {micro_avx512<R, 1>, micro_avx512<R, 2>, micro_avx512<R, 3>}
const Micro kAvx512[8][3] = {TV_ROW(1), TV_ROW(2), TV_ROW(3), TV_ROW(4), TV_ROW(5), TV_ROW(6), TV_ROW(7), TV_ROW(8)};
#undef TV_ROW

TV_AVX512 TV_INLINE void transpose(__m512i (&v)[8]) {
    __m512i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = _mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            b[4 * i + j] = _mm512_shuffle_i64x2(a[4 * i + j], a[4 * i + 2 + j], 0x88);
            b[4 * i + 2 + j] = _mm512_shuffle_i64x2(a[4 * i + j], a[4 * i + 2 + j], 0xDD);
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        // 128-bit lanes: b[j] holds lanes (0, 2), b[2 + j] lanes (1, 3) of rows 0-3, b[4 + ...] those of rows 4-7
        v[j] = _mm512_shuffle_i64x2(b[j], b[4 + j], 0x88);
        v[4 + j] = _mm512_shuffle_i64x2(b[j], b[4 + j], 0xDD);
    }
}

TV_AVX512 void pack_avx512(u64* out, i64 step, int width, i64 depth, const u64* from, i64 across, i64 along,
                           bool subtract) {
    if (across == 1) {
        for (int c = 0; c < width; c += 8) {
            const __mmask8 lanes = static_cast<__mmask8>((1u << std::min(8, width - c)) - 1);
            u64* to = out + c;
            const u64* source = from + c;
            for (i64 k = 0; k < depth; ++k) {
                __m512i v = _mm512_maskz_loadu_epi64(lanes, source + k * along);
                if (subtract) v = _mm512_sub_epi64(_mm512_loadu_si512(to + k * step), v);
                _mm512_storeu_si512(to + k * step, v);
            }
        }
        return;
    }
    if (along == 1) {
        for (int c = 0; c < width; c += 8) {
            const int rows = std::min(8, width - c);
            u64* to = out + c;
            const u64* source = from + c * across;
            for (i64 k = 0; k < depth; k += 8) {
                const int columns = static_cast<int>(std::min<i64>(8, depth - k));
                const __mmask8 lanes = static_cast<__mmask8>((1u << columns) - 1);
                __m512i v[8];
#pragma GCC unroll 8
                for (int r = 0; r < 8; ++r) {
                    v[r] = r < rows ? _mm512_maskz_loadu_epi64(lanes, source + r * across + k) : _mm512_setzero_si512();
                }
                transpose(v);
#pragma GCC unroll 8
                for (int r = 0; r < 8; ++r) {
                    if (r >= columns) break;
                    if (subtract) v[r] = _mm512_sub_epi64(_mm512_loadu_si512(to + (k + r) * step), v[r]);
                    _mm512_storeu_si512(to + (k + r) * step, v[r]);
                }
            }
        }
        return;
    }
    pack_portable(out, step, width, depth, from, across, along, subtract);
}

#endif  // TV_X86

const Kernel& kernel() {
    static const Kernel portable{4, 4, 4, kPortable, pack_portable};
#ifdef TV_X86
    static const Kernel avx2{6, 4, 4, kAvx2, pack_portable};
    static const Kernel avx512{8, 24, 8, kAvx512, pack_avx512};
    if (cpu().level == Level::avx512) return avx512;
    if (cpu().level == Level::avx2) return avx2;
#endif
    return portable;
}

// --- blocks ------------------------------------------------------------------------------------------------------

// Memory for packed panels, kept by each thread.
class Scratch {
public:
    u64* get(i64 count) {
        if (count > size_) {
            memory_.reset(static_cast<u64*>(::operator new[](static_cast<std::size_t>(count) * 8, std::align_val_t(64))));
            size_ = count;
        }
        return memory_.get();
    }

private:
    struct Free {
        void operator()(u64* p) const { ::operator delete[](p, std::align_val_t(64)); }
    };
    std::unique_ptr<u64, Free> memory_;
    i64 size_ = 0;
};

i64 round_up(i64 value, i64 unit) { return (value + unit - 1) / unit * unit; }

// The largest equal division of `total` into pieces of at most `most`, in units.
i64 even(i64 total, i64 most, i64 unit) {
    const i64 pieces = (total + most - 1) / most;
    return pieces <= 1 ? std::max<i64>(total, 1) : round_up((total + pieces - 1) / pieces, unit);
}

struct Out {
    u64* at;
    i64 row;
    i64 column;
};

// Rows [0, m) and columns [0, n) of one summand.
void term_block(const Kernel& use, const Out& out, i64 m, i64 n, const Matrix& x, const Matrix& x_minus,
                const Matrix& y, const Matrix& y_minus, i64 depth, bool load, bool negative) {
    thread_local Scratch x_panels, y_panels;
    const i64 kc = even(depth, kDepth, 8), mc = even(m, kRows, use.mr), nc = even(n, kColumns, use.nr);
    u64* const xs = x_panels.get(round_up(std::min(mc, m), use.mr) * kc);
    u64* const ys = y_panels.get(round_up(std::min(nc, n), use.nr) * kc);
    for (i64 j0 = 0; j0 < n; j0 += nc) {
        const i64 columns = std::min(nc, n - j0);
        for (i64 k0 = 0; k0 < depth; k0 += kc) {
            const i64 ks = std::min(kc, depth - k0);
            for (i64 j = 0; j < columns; j += use.nr) {
                const int width = static_cast<int>(std::min<i64>(use.nr, columns - j));
                const i64 step = round_up(width, use.lanes);
                const i64 place = (j0 + j) * y.column + k0 * y.row;
                // a panel of fewer columns is packed tighter, at the same start
                use.pack(ys + j * kc, step, width, ks, y.at + place, y.column, y.row, false);
                if (y_minus.at != nullptr) {
                    use.pack(ys + j * kc, step, width, ks, y_minus.at + (j0 + j) * y_minus.column + k0 * y_minus.row,
                             y_minus.column, y_minus.row, true);
                }
            }
            for (i64 i0 = 0; i0 < m; i0 += mc) {
                const i64 rows = std::min(mc, m - i0);
                for (i64 i = 0; i < rows; i += use.mr) {
                    const int height = static_cast<int>(std::min<i64>(use.mr, rows - i));
                    use.pack(xs + i * kc, use.mr, height, ks, x.at + (i0 + i) * x.row + k0 * x.column, x.row, x.column,
                             false);
                    if (x_minus.at != nullptr) {
                        use.pack(xs + i * kc, use.mr, height, ks,
                                 x_minus.at + (i0 + i) * x_minus.row + k0 * x_minus.column, x_minus.row, x_minus.column,
                                 true);
                    }
                }
                for (i64 j = 0; j < columns; j += use.nr) {
                    const int width = static_cast<int>(std::min<i64>(use.nr, columns - j));
                    const i64 step = round_up(width, use.lanes);
                    for (i64 i = 0; i < rows; i += use.mr) {
                        const int height = static_cast<int>(std::min<i64>(use.mr, rows - i));
                        u64* const place = out.at + (i0 + i) * out.row + (j0 + j) * out.column;
                        const Tile tile{place, out.row, out.column, width, load || k0 > 0, negative};
                        use.micro[height - 1][step / use.lanes - 1](ks, xs + i * kc, ys + j * kc, step, tile);
                    }
                }
            }
        }
    }
}

Matrix shifted(const Matrix& a, i64 rows, i64 columns) {
    return a.at == nullptr ? a : Matrix{a.at + rows * a.row + columns * a.column, a.batch, a.row, a.column};
}

Matrix transposed(const Matrix& a) { return Matrix{a.at, a.batch, a.column, a.row}; }

Matrix entry(const Matrix& a, i64 index) {
    return a.at == nullptr ? a : Matrix{a.at + index * a.batch, a.batch, a.row, a.column};
}

// Rows [i0, i1) and columns [j0, j1) of one product of the batch.
void product(const Kernel& use, u64* out, i64 n, const Term* terms, int n_terms, bool accumulate, i64 index, i64 i0,
             i64 i1, i64 j0, i64 j1) {
    const i64 rows = i1 - i0, columns = j1 - j0;
    const bool flip = round_up(rows, use.lanes) * columns < round_up(columns, use.lanes) * rows;
    u64* const corner = out + i0 * n + j0;
    bool load = accumulate;
    for (int t = 0; t < n_terms; ++t) {
        const Term& term = terms[t];
        if (term.k == 0) continue;
        const Matrix x = shifted(entry(term.x, index), i0, 0), y = shifted(entry(term.y, index), 0, j0);
        const Matrix minus = shifted(entry(term.minus, index), 0, j0), none{nullptr, 0, 0, 0};
        if (flip) {
            term_block(use, {corner, 1, n}, columns, rows, transposed(y), transposed(minus), transposed(x), none,
                       term.k, load, term.negative);
        } else {
            term_block(use, {corner, n, 1}, rows, columns, x, none, y, minus, term.k, load, term.negative);
        }
        load = true;
    }
    if (!load) {
        for (i64 i = 0; i < rows; ++i) std::fill_n(corner + i * n, columns, u64{0});
    }
}

}  // namespace

void matmul(u64* out, i64 batches, i64 m, i64 n, const Term* terms, int n_terms, bool accumulate, int threads) {
    if (batches == 0 || m == 0 || n == 0) return;
    const Kernel& use = kernel();
    i64 depth = 0;
    for (int t = 0; t < n_terms; ++t) depth += terms[t].k;
    const i64 work = m * n * depth;
    const i64 useful = std::clamp<i64>(batches * work / kThreadWork, 1, std::max(threads, 1));
    if (batches >= useful) {
        parallel(static_cast<int>(useful), useful, [&](i64 part) {
            for (i64 e = batches * part / useful; e < batches * (part + 1) / useful; ++e) {
                product(use, out + e * m * n, n, terms, n_terms, accumulate, e, 0, m, 0, n);
            }
        });
        return;
    }
    // Cut each product into a grid of `useful` blocks that packs as little as possible twice.
    i64 row_cuts = 1;
    for (i64 cuts = 1; cuts <= useful; ++cuts) {
        if (useful % cuts != 0) continue;
        if ((m / cuts) + n / (useful / cuts) < (m / row_cuts) + n / (useful / row_cuts)) row_cuts = cuts;
    }
    const i64 height = round_up((m + row_cuts - 1) / row_cuts, 8);
    const i64 width = round_up((n + useful / row_cuts - 1) / (useful / row_cuts), 8);
    const i64 down = (m + height - 1) / height, across = (n + width - 1) / width;
    parallel(static_cast<int>(useful), batches * down * across, [&](i64 task) {
        const i64 e = task / (down * across), block = task % (down * across);
        const i64 i0 = block / across * height, j0 = block % across * width;
        product(use, out + e * m * n, n, terms, n_terms, accumulate, e, i0, std::min(m, i0 + height), j0,
                std::min(n, j0 + width));
    });
}

}  // namespace tv
