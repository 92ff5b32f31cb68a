// Memory for large buffers.
#pragma once

#include <memory>

#include "cpu.h"

namespace tv {

// Ask the system for huge pages under [at, at + bytes); nothing happens where it has none.
void huge_pages(void* at, i64 bytes);

// A buffer for a thread's own use, which keeps the largest size it was asked for. Not initialised.
class Scratch {
public:
    u64* get(i64 count);

private:
    struct Free {
        void operator()(u64* p) const;
    };
    std::unique_ptr<u64, Free> memory_;
    i64 size_ = 0;
};

}  // namespace tv
