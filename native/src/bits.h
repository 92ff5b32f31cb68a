// Bits: eight to a byte, one to a byte, one to a ring element.
#pragma once

#include "cpu.h"

namespace tv {

// For each of `rows` rows of `count` elements, the packed bits x[i] != 0 (T = u8) or the top bits of x (T = u64).
void pack_bits(u8* out, const u8* x, i64 rows, i64 count, int threads);
void pack_top_bits(u8* out, const u64* x, i64 rows, i64 count, int threads);

// The inverses: ceil(count / 8) bytes per row become `count` elements 0 or 1.
void unpack_bits(u8* out, const u8* packed, i64 rows, i64 count, int threads);
void unpack_to_ring(u64* out, const u8* packed, i64 rows, i64 count, int threads);

}  // namespace tv
