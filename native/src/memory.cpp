#include "memory.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include <pthread.h>
#include <sys/mman.h>

namespace tv {
namespace {

constexpr i64 kHugePage = 1 << 21;

// Pages of their own, so that they go back to the system when they are released: malloc may keep what it was given back.
u8* map_pages(i64 bytes) {
    const i64 more = bytes >= kHugePage ? kHugePage : 0;  // to begin at a huge page
    void* const found = mmap(nullptr, static_cast<std::size_t>(bytes + more), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    u8* const at = static_cast<u8*>(found);
    if (more == 0) return at;
    const i64 past = static_cast<i64>(reinterpret_cast<std::uintptr_t>(at) % static_cast<std::uintptr_t>(kHugePage));
    const i64 head = past == 0 ? 0 : kHugePage - past;
    if (head > 0) munmap(at, static_cast<std::size_t>(head));
    if (head < more) munmap(at + head + bytes, static_cast<std::size_t>(more - head));
    huge_pages(at + head, bytes);
    return at + head;
}

i64 rounded(i64 bytes) {
    const i64 unit = bytes >= kHugePage ? kHugePage : 1 << 16;
    return (bytes + unit - 1) / unit * unit;
}

// Buffers that nobody uses, the one that was given back last at the end.
class Idle {
public:
    // The smallest that fits and is not much larger, or null.
    u8* take(i64 bytes, i64& room) {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::size_t best = held_.size();
        for (std::size_t i = 0; i < held_.size(); ++i) {
            const i64 size = held_[i].size;
            if (size >= bytes && size <= bytes + bytes / 4 && (best == held_.size() || size <= held_[best].size)) best = i;
        }
        if (best == held_.size()) {
            // a fresh one is due: memory in use and idle together should not grow for want of a fitting size
            release(std::max<i64>(0, total_ - bytes));
            return nullptr;
        }
        const Buffer found = held_[best];
        held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(best));
        total_ -= found.size;
        room = found.size;
        return found.at;
    }

    void give(u8* at, i64 size) {
        const std::lock_guard<std::mutex> lock(mutex_);
        held_.push_back({at, size});
        total_ += size;
        release(Block::kIdle);
    }

    i64 total() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return total_;
    }

private:
    struct Buffer {
        u8* at;
        i64 size;
    };

    // The oldest go back to the system until no more than `most` bytes are left.
    void release(i64 most) {
        std::size_t old = 0;
        for (; total_ > most; ++old) {
            total_ -= held_[old].size;
            munmap(held_[old].at, static_cast<std::size_t>(held_[old].size));
        }
        held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(old));
    }

    std::mutex mutex_;
    std::vector<Buffer> held_;
    i64 total_ = 0;
};

// Never destroyed: tensors may outlive static destructors. A forked child starts with a new one, for another thread may
// have held the lock.
std::atomic<Idle*> idle_instance{nullptr};

Idle& idle() {
    Idle* found = idle_instance.load();
    if (found != nullptr) return *found;
    static const int registered = pthread_atfork(nullptr, nullptr, [] { idle_instance.store(new Idle); });
    (void)registered;
    Idle* const made = new Idle;
    if (idle_instance.compare_exchange_strong(found, made)) return *made;
    delete made;
    return *idle_instance.load();
}

}  // namespace

Block::Block(i64 bytes) : data_(nullptr), bytes_(bytes), room_(rounded(bytes)) {
    data_ = idle().take(room_, room_);
    if (data_ == nullptr) data_ = map_pages(room_);
}

Block::~Block() { idle().give(data_, room_); }

i64 idle_bytes() { return idle().total(); }

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
        huge_pages(memory_.get(), bytes);
        size_ = count;
    }
    return memory_.get();
}

}  // namespace tv
