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

// A large buffer whose pages are used again by the next one: the system would have to clear a fresh page at its first
// touch, which takes longer than what kernels do with it. At most kIdle bytes lie idle in the process, and fewer while it
// grows: whoever needs fresh pages gives as many idle ones back to the system. Not initialised.
class Block {
public:
    static constexpr i64 kIdle = 128 << 20;

    explicit Block(i64 bytes);
    ~Block();
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    u8* data() const { return data_; }
    i64 size() const { return bytes_; }

private:
    u8* data_;
    i64 bytes_;
    i64 room_;
};

// Bytes that lie idle now.
i64 idle_bytes();

}  // namespace tv
