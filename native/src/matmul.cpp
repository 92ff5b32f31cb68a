// Theory of operation. The blocked product of Goto and van de Geijn (ACM TOMS 34(3), 2008): y is packed into panels of `nr`
// columns, x into panels of `mr` rows, and a micro kernel multiplies one panel by the other with its accumulators in
// registers. Packing is where strides, transposition, signs and the subtraction y - minus are dealt with, so an operand
// is never copied as a whole. All terms of a sum are packed one below the other, as if they were one long product, so
// the result is read and written once for every `depth` steps and not once per term. A product with few columns is
// computed as its transpose if that wastes fewer lanes.
//
// Both packed operands are shared by all threads. A slice of `depth` of both fits kPacked bytes; a group of panels of y
// stays in the second-level cache while all panels of x stream past it, which the hardware prefetches. Panels are deep
// (up to kDepth): with depth 160, where a panel of y stays in the first level, the result was touched seven times as
// often and a product of 1024^3 reached 40 G multiplications a second where this order reaches 54.
//
// avx512: 8 x 24 with vpmullq. avx2: 6 x 4; a 64-bit product is lo * lo + ((lo * hi + hi * lo) << 32), and the
// two sums have accumulators of their own, so the shift happens once per output. portable: 4 x 4 scalars.

#include "matmul.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "memory.h"
#include "pool.h"

namespace tv {
namespace {

constexpr i64 kDepth = 1024;            // of a slice
constexpr i64 kPacked = 10 << 20;       // bytes of a slice of both operands
constexpr i64 kSide = 2048;             // rows and columns of the result that are computed together
constexpr i64 kGroup = 200 << 10;       // bytes of panels of y that stay in the second-level cache
constexpr i64 kThreadWork = 1 << 22;    // multiplications below which a second thread does not pay
constexpr i64 kPackGrain = 1 << 16;     // elements packed by one task

// What a micro kernel does with its tile: out = [out +] tile, with strides; `width` columns of the panel are real.
struct Tile {
    u64* out;
    i64 row;
    i64 column;
    int width;
    bool load;
};

// How packing treats what it reads.
enum class Sign {
    plus,     // packed = value
    minus,    // packed = -value
    deduct,   // packed -= value
    restore   // packed += value
};

using Micro = void (*)(i64 depth, const u64* x, const u64* y, i64 y_step, const Tile& tile);
using Pack = void (*)(u64* out, i64 step, int width, i64 depth, const u64* from, i64 across, i64 along, Sign sign);

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
            place = t.load ? place + sums[r * step + c] : sums[r * step + c];
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

void pack_portable(u64* out, i64 step, int width, i64 depth, const u64* from, i64 across, i64 along, Sign sign) {
    const bool adds = sign == Sign::deduct || sign == Sign::restore;
    const u64 turn = sign == Sign::minus || sign == Sign::deduct ? ~u64{0} : 0;
    for (i64 k = 0; k < depth; ++k) {
        for (int j = 0; j < width; ++j) {
            const u64 value = (from[j * across + k * along] ^ turn) - turn;
            out[k * step + j] = adds ? out[k * step + j] + value : value;
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
            _mm512_mask_storeu_epi64(place, lanes, _mm512_add_epi64(old, sum));
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
    if (tile.column == 1 && tile.load) {
        for (int r = 0; r < R; ++r) {
            for (int c = 0; c < tile.width; c += 8) __builtin_prefetch(tile.out + r * tile.row + c, 1);
        }
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

// What is packed where `old` lies, given the value read.
template <Sign sign>
TV_AVX512 TV_INLINE __m512i signed_value(const u64* old, __m512i value) {
    if (sign == Sign::minus) return _mm512_sub_epi64(_mm512_setzero_si512(), value);
    if (sign == Sign::deduct) return _mm512_sub_epi64(_mm512_loadu_si512(old), value);
    if (sign == Sign::restore) return _mm512_add_epi64(_mm512_loadu_si512(old), value);
    return value;
}

template <Sign sign>
TV_AVX512 void pack_avx512_as(u64* out, i64 step, int width, i64 depth, const u64* from, i64 across, i64 along) {
    if (across == 1) {
        for (int c = 0; c < width; c += 8) {
            const __mmask8 lanes = static_cast<__mmask8>((1u << std::min(8, width - c)) - 1);
            u64* to = out + c;
            const u64* source = from + c;
            for (i64 k = 0; k < depth; ++k) {
                const __m512i v = _mm512_maskz_loadu_epi64(lanes, source + k * along);
                _mm512_storeu_si512(to + k * step, signed_value<sign>(to + k * step, v));
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
                    u64* const place = to + (k + r) * step;
                    _mm512_storeu_si512(place, signed_value<sign>(place, v[r]));
                }
            }
        }
        return;
    }
    pack_portable(out, step, width, depth, from, across, along, sign);
}

TV_AVX512 void pack_avx512(u64* out, i64 step, int width, i64 depth, const u64* from, i64 across, i64 along,
                           Sign sign) {
    switch (sign) {
        case Sign::plus: return pack_avx512_as<Sign::plus>(out, step, width, depth, from, across, along);
        case Sign::minus: return pack_avx512_as<Sign::minus>(out, step, width, depth, from, across, along);
        case Sign::deduct: return pack_avx512_as<Sign::deduct>(out, step, width, depth, from, across, along);
        case Sign::restore: return pack_avx512_as<Sign::restore>(out, step, width, depth, from, across, along);
    }
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

i64 round_up(i64 value, i64 unit) { return (value + unit - 1) / unit * unit; }

// The largest equal division of `total` into pieces of at most `most`, in units.
i64 even(i64 total, i64 most, i64 unit) {
    const i64 pieces = (total + most - 1) / most;
    return pieces <= 1 ? std::max<i64>(total, 1) : round_up((total + pieces - 1) / pieces, unit);
}

// Both operands of a summand with what is subtracted from each, for one product of the batch.
struct Operands {
    Matrix x, x_minus, y, y_minus;
    i64 k;
    bool negative;
};

Matrix transposed(const Matrix& a) { return Matrix{a.at, a.batch, a.column, a.row}; }

const u64* element(const Matrix& a, i64 row, i64 column) { return a.at + row * a.row + column * a.column; }

// A block of the result with the packed operands of one slice of the sum.
struct Block {
    const Kernel& use;
    u64* out;  // element (i, j) at out[i * row + j * column]
    i64 row, column;
    i64 i0, j0, m, n;  // place and size in the whole product
    i64 depth;
    u64* xs;
    u64* ys;

    i64 x_panels() const { return (m + use.mr - 1) / use.mr; }
    i64 y_panels() const { return (n + use.nr - 1) / use.nr; }
    int height(i64 panel) const { return static_cast<int>(std::min<i64>(use.mr, m - panel * use.mr)); }
    int width(i64 panel) const { return static_cast<int>(std::min<i64>(use.nr, n - panel * use.nr)); }

    // Steps [k, k + size) of a term become steps [at, at + size) of the slice.
    void pack_x(i64 panel, const Operands& term, i64 k, i64 size, i64 at) const {
        u64* const to = xs + panel * use.mr * depth + at * use.mr;
        const i64 i = i0 + panel * use.mr;
        use.pack(to, use.mr, height(panel), size, element(term.x, i, k), term.x.row, term.x.column, Sign::plus);
        if (term.x_minus.at == nullptr) return;
        use.pack(to, use.mr, height(panel), size, element(term.x_minus, i, k), term.x_minus.row, term.x_minus.column,
                 Sign::deduct);
    }

    // The sign of the term goes with y. A panel of fewer columns is packed tighter, at the same start.
    void pack_y(i64 panel, const Operands& term, i64 k, i64 size, i64 at) const {
        const i64 step = round_up(width(panel), use.lanes), j = j0 + panel * use.nr;
        u64* const to = ys + panel * use.nr * depth + at * step;
        use.pack(to, step, width(panel), size, element(term.y, k, j), term.y.column, term.y.row,
                 term.negative ? Sign::minus : Sign::plus);
        if (term.y_minus.at == nullptr) return;
        use.pack(to, step, width(panel), size, element(term.y_minus, k, j), term.y_minus.column, term.y_minus.row,
                 term.negative ? Sign::restore : Sign::deduct);
    }

    // The tiles of panels [i, i_end) of x and [j, j_end) of y.
    void multiply(i64 i_begin, i64 i_end, i64 j_begin, i64 j_end, bool load) const {
        for (i64 i = i_begin; i < i_end; ++i) {
            for (i64 j = j_begin; j < j_end; ++j) {
                const i64 step = round_up(width(j), use.lanes);
                u64* const place = out + (i0 + i * use.mr) * row + (j0 + j * use.nr) * column;
                const Tile tile{place, row, column, width(j), load};
                use.micro[height(i) - 1][step / use.lanes - 1](depth, xs + i * use.mr * depth, ys + j * use.nr * depth,
                                                               step, tile);
            }
        }
    }
};

// Pack steps [begin, begin + depth) of the terms, one below the other, and multiply.
void slice(const Block& block, const std::vector<Operands>& terms, i64 begin, bool load, int threads) {
    const Kernel& use = block.use;
    const i64 end = begin + block.depth, nx = block.x_panels(), ny = block.y_panels();
    const auto each_part = [&](const auto& pack) {
        i64 start = 0;
        for (const Operands& term : terms) {
            const i64 from = std::max(begin, start), to = std::min(end, start + term.k);
            if (from < to) pack(term, from - start, to - from, from - begin);
            start += term.k;
        }
    };
    const i64 x_share = std::max<i64>(1, kPackGrain / (use.mr * block.depth)), x_tasks = (nx + x_share - 1) / x_share;
    const i64 y_share = std::max<i64>(1, kPackGrain / (use.nr * block.depth)), y_tasks = (ny + y_share - 1) / y_share;
    parallel(threads, x_tasks + y_tasks, [&](i64 task) {
        each_part([&](const Operands& term, i64 k, i64 size, i64 at) {
            if (task < x_tasks) {
                for (i64 p = task * x_share; p < std::min(nx, (task + 1) * x_share); ++p) block.pack_x(p, term, k, size, at);
            } else {
                const i64 first = (task - x_tasks) * y_share;
                for (i64 p = first; p < std::min(ny, first + y_share); ++p) block.pack_y(p, term, k, size, at);
            }
        });
    });
    // Several tasks a thread: on a machine with other work, the threads do not advance alike.
    const i64 group = std::max<i64>(1, kGroup / (use.nr * block.depth * 8)), groups = (ny + group - 1) / group;
    const i64 wanted = threads > 1 ? (4 * threads + groups - 1) / groups : 1;
    const i64 rows = std::max<i64>(1, (nx + wanted - 1) / wanted), cuts = (nx + rows - 1) / rows;
    parallel(threads, groups * cuts, [&](i64 task) {
        const i64 i = task % cuts * rows, j = task / cuts * group;
        block.multiply(i, std::min(nx, i + rows), j, std::min(ny, j + group), load);
    });
}

// One product of the batch: [out +] the sum of the terms.
void product(const Kernel& use, u64* out, i64 m, i64 n, std::vector<Operands> terms, bool accumulate, int threads) {
    i64 row = n, column = 1, depth = 0;
    for (const Operands& term : terms) depth += term.k;
    if (depth == 0) {
        if (!accumulate) std::fill_n(out, m * n, u64{0});
        return;
    }
    if (round_up(m, use.lanes) * n < round_up(n, use.lanes) * m) {
        std::swap(m, n);
        std::swap(row, column);
        for (Operands& t : terms) {
            t = {transposed(t.y), transposed(t.y_minus), transposed(t.x), transposed(t.x_minus), t.k, t.negative};
        }
    }
    thread_local Scratch scratch;
    const i64 height = even(m, kSide, use.mr), width = even(n, kSide, use.nr);
    const i64 sides = round_up(height, use.mr) + round_up(width, use.nr);
    const i64 step = even(depth, std::clamp<i64>(kPacked / 8 / sides, 16, kDepth), 8);
    u64* const xs = scratch.get(sides * step);
    u64* const ys = xs + round_up(height, use.mr) * step;
    for (i64 j0 = 0; j0 < n; j0 += width) {
        for (i64 i0 = 0; i0 < m; i0 += height) {
            Block block{use, out, row, column, i0, j0, std::min(height, m - i0), std::min(width, n - j0), 0, xs, ys};
            for (i64 k = 0; k < depth; k += step) {
                block.depth = std::min(step, depth - k);
                slice(block, terms, k, accumulate || k > 0, threads);
            }
        }
    }
}

}  // namespace

void matmul(u64* out, i64 batches, i64 m, i64 n, const Term* terms, int n_terms, bool accumulate, int threads) {
    if (batches == 0 || m == 0 || n == 0) return;
    const Kernel& use = kernel();
    i64 depth = 0;
    for (int t = 0; t < n_terms; ++t) depth += terms[t].k;
    const i64 useful = std::clamp<i64>(batches * m * n * depth / kThreadWork, 1, std::max(threads, 1));
    const auto entry = [&](i64 index, int workers) {
        std::vector<Operands> list;
        const auto at = [&](const Matrix& a) {
            return Matrix{a.at == nullptr ? nullptr : a.at + index * a.batch, a.batch, a.row, a.column};
        };
        for (int t = 0; t < n_terms; ++t) {
            list.push_back({at(terms[t].x), {nullptr, 0, 0, 0}, at(terms[t].y), at(terms[t].minus), terms[t].k,
                            terms[t].negative});
        }
        product(use, out + index * m * n, m, n, std::move(list), accumulate, workers);
    };
    if (batches < useful) {
        for (i64 index = 0; index < batches; ++index) entry(index, static_cast<int>(useful));
        return;
    }
    const i64 pieces = useful == 1 ? 1 : std::min(batches, 4 * useful);
    parallel(static_cast<int>(useful), pieces, [&](i64 piece) {
        for (i64 index = batches * piece / pieces; index < batches * (piece + 1) / pieces; ++index) entry(index, 1);
    });
}

}  // namespace tv
