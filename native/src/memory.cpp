#include "memory.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <new>

#include <pthread.h>
#include <sys/mman.h>

namespace tv {
namespace {

constexpr i64 kHugePage = 1 << 21;
constexpr i64 kUnit = 1 << 16;  // sizes are multiples of it

i64 rounded(i64 bytes, i64 unit) { return (bytes + unit - 1) / unit * unit; }

// Pages of their own, so that they go back to the system when they are released: malloc may keep what it was given back.
// `bytes` is a multiple of a huge page, and the memory begins at one.
u8* map_pages(i64 bytes) {
    void* const found = mmap(nullptr, static_cast<std::size_t>(bytes + kHugePage), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    u8* const at = static_cast<u8*>(found);
    const i64 past = static_cast<i64>(reinterpret_cast<std::uintptr_t>(at) % static_cast<std::uintptr_t>(kHugePage));
    const i64 head = past == 0 ? 0 : kHugePage - past;
    if (head > 0) munmap(at, static_cast<std::size_t>(head));
    if (head < kHugePage) munmap(at + head + bytes, static_cast<std::size_t>(kHugePage - head));
    huge_pages(at + head, bytes);
    return at + head;
}

// Stretches of memory that nobody uses, by address. Neighbours are one stretch, and a buffer takes what it needs of the
// smallest stretch that has room for it: buffers of any sizes use each other's pages again.
class Idle {
public:
    u8* take(i64 bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        auto best = held_.end();
        for (auto it = held_.begin(); it != held_.end(); ++it) {
            if (it->second >= bytes && (best == held_.end() || it->second < best->second)) best = it;
        }
        if (best == held_.end()) {
            // fresh pages are due: memory in use and idle together should not grow for want of a fitting stretch
            const i64 size = rounded(bytes, kHugePage);
            release(std::max<i64>(0, total_ - size));
            u8* const at = map_pages(size);
            if (size > bytes) insert(at + bytes, size - bytes);
            return at;
        }
        u8* const at = best->first;
        const i64 size = best->second;
        held_.erase(best);
        if (size > bytes) held_.emplace(at + bytes, size - bytes);
        total_ -= bytes;
        return at;
    }

    void give(u8* at, i64 size) {
        const std::lock_guard<std::mutex> lock(mutex_);
        insert(at, size);
        if (total_ > Block::kIdle) release(Block::kIdle);
    }

    i64 total() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return total_;
    }

private:
    void insert(u8* at, i64 size) {
        total_ += size;
        auto next = held_.lower_bound(at);
        if (next != held_.end() && at + size == next->first) {
            size += next->second;
            next = held_.erase(next);
        }
        if (next != held_.begin()) {
            const auto before = std::prev(next);
            if (before->first + before->second == at) {
                before->second += size;
                return;
            }
        }
        held_.emplace_hint(next, at, size);
    }

    // Gives memory back to the system, the largest stretches first, until no more than `most` bytes are left.
    void release(i64 most) {
        while (total_ > most) {
            auto largest = held_.begin();
            for (auto it = held_.begin(); it != held_.end(); ++it) {
                if (it->second > largest->second) largest = it;
            }
            // its end, in whole units
            const i64 size = std::min(largest->second, rounded(total_ - most, kUnit));
            largest->second -= size;
            munmap(largest->first + largest->second, static_cast<std::size_t>(size));
            if (largest->second == 0) held_.erase(largest);
            total_ -= size;
        }
    }

    std::mutex mutex_;
    std::map<u8*, i64> held_;
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

Block::Block(i64 bytes) : data_(nullptr), bytes_(bytes), room_(rounded(bytes, kUnit)) { data_ = idle().take(room_); }

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
