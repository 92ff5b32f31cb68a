// A pool of threads that lives as long as the process and survives a fork.
#pragma once

#include <functional>

#include "cpu.h"

namespace tv {

// Run task(0) .. task(count - 1) on at most `threads` threads, the caller among them, and return when all are done.
// A second caller at the same time runs its tasks alone rather than wait. Tasks must not throw.
void parallel(int threads, i64 count, const std::function<void(i64)>& task);

// Run task(begin, end) over [0, count) in pieces of at least `grain`, a multiple of `align` except the last.
void parallel_ranges(int threads, i64 count, i64 grain, i64 align, const std::function<void(i64, i64)>& task);

}  // namespace tv
