#include "memory.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include <pthread.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace tv {
namespace {

constexpr i64 kHugePage = 1 << 21;

u8* fresh(i64 bytes, i64 align) {
    void* const at = std::aligned_alloc(static_cast<std::size_t>(align), static_cast<std::size_t>(bytes));
    if (at == nullptr) throw std::bad_alloc();
    huge_pages(at, bytes);
    return static_cast<u8*>(at);
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
        if (best == held_.size()) return nullptr;
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
        std::size_t old = 0;
        for (; total_ > Block::kIdle; ++old) {
            total_ -= held_[old].size;
            std::free(held_[old].at);
        }
        held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(old));
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
    if (data_ == nullptr) data_ = fresh(room_, room_ >= kHugePage ? kHugePage : 1 << 16);
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
        memory_.reset(reinterpret_cast<u64*>(fresh(bytes, align)));
        size_ = count;
    }
    return memory_.get();
}

}  // namespace tv
