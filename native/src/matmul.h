// Products of matrices over Z_2^64.
#pragma once

#include "cpu.h"

namespace tv {

// A matrix inside a tensor: element (i, j) of batch entry e is at[e * batch + i * row + j * column].
struct Matrix {
    const u64* at;
    i64 batch;
    i64 row;
    i64 column;
};

// One summand: sign * x @ (y - minus), with minus.at == nullptr for none. x is m x k, y is k x n.
struct Term {
    Matrix x;
    Matrix y;
    Matrix minus;
    i64 k;
    bool negative;
};

// out (batches x m x n, contiguous) = [out +] the sum of the terms.
void matmul(u64* out, i64 batches, i64 m, i64 n, const Term* terms, int n_terms, bool accumulate, int threads);

}  // namespace tv
