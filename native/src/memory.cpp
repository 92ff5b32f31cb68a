#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tv {
namespace {

constexpr i64 kHugePage = 1 << 21;

}  // namespace

void huge_pages(void* at, i64 bytes) {
#ifdef __linux__
    const auto start = reinterpret_cast<std::uintptr_t>(at), huge = static_cast<std::uintptr_t>(kHugePage);
    const auto begin = (start + huge - 1) / huge * huge, end = (start + static_cast<std::uintptr_t>(bytes)) / huge * huge;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)at;
    (void)bytes;
#endif
}

void Scratch::Free::operator()(u64* p) const { std::free(p); }

u64* Scratch::get(i64 count) {
    if (count > size_) {
        memory_.reset();
        size_ = 0;
        const i64 align = count * 8 >= kHugePage ? kHugePage : 64, bytes = (count * 8 + align - 1) / align * align;
        memory_.reset(static_cast<u64*>(std::aligned_alloc(static_cast<std::size_t>(align), static_cast<std::size_t>(bytes))));
        if (memory_ == nullptr) throw std::bad_alloc();
        size_ = count;
        huge_pages(memory_.get(), bytes);
    }
    return memory_.get();
}

}  // namespace tv
