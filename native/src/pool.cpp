#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include <pthread.h>

namespace tv {
namespace {

// How long an idle worker looks for the next job before it sleeps: kernels of one gate follow each other closely.
constexpr std::chrono::microseconds kSpin{30};

// How often the caller looks whether the others are done before it offers its core.
constexpr int kPatience = 1 << 11;

TV_INLINE void relax() {
#ifdef TV_X86
    _mm_pause();
#endif
}

struct Job {
    const std::function<void(i64)>* task;
    i64 count;
    std::atomic<i64> next{0};
    std::atomic<i64> done{0};

    // A late worker finds nothing left and never touches `task`, which may be gone by then.
    void work() {
        for (i64 i; (i = next.fetch_add(1)) < count;) {
            (*task)(i);
            done.fetch_add(1, std::memory_order_release);
        }
    }
};

class Pool {
public:
    bool run(int threads, i64 count, const std::function<void(i64)>& task) {
        std::unique_lock<std::mutex> owner(busy_, std::try_to_lock);
        if (!owner.owns_lock()) return false;
        const int wanted = static_cast<int>(std::min<i64>(threads, count)) - 1;
        while (workers_ < wanted) {
            try {
                std::thread([this, rank = workers_] { serve(rank); }).detach();
            } catch (const std::system_error&) {
                break;  // no more threads to be had: the others take its tasks
            }
            ++workers_;
        }
        auto job = std::make_shared<Job>();
        job->task = &task;
        job->count = count;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = job;
            active_ = wanted;
            generation_.fetch_add(1, std::memory_order_release);
        }
        if (sleeping_.load() > 0) wake_.notify_all();
        job->work();
        for (int spins = 0; job->done.load(std::memory_order_acquire) < count; ++spins) {
            if (spins < kPatience) {
                relax();
            } else {
                std::this_thread::yield();  // on a busy machine, a worker may be waiting for this core
            }
        }
        return true;
    }

private:
    void serve(int rank) {
        u64 seen = 0;
        for (;;) {
            const auto limit = std::chrono::steady_clock::now() + kSpin;
            while (generation_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < limit) {
                for (int i = 0; i < 32; ++i) relax();
            }
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                sleeping_.fetch_add(1);
                wake_.wait(lock, [&] { return generation_.load() != seen; });
                sleeping_.fetch_sub(1);
                seen = generation_.load();
                if (rank < active_) job = job_;
            }
            if (job) job->work();
        }
    }

    std::mutex busy_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::shared_ptr<Job> job_;
    std::atomic<u64> generation_{0};
    std::atomic<int> sleeping_{0};
    int active_ = 0;
    int workers_ = 0;
};

// Never destroyed: workers are detached and may outlive static destructors. A forked child has no workers, so it
// starts with a new pool.
std::atomic<Pool*> pool_instance{nullptr};

Pool& pool() {
    Pool* found = pool_instance.load();
    if (found == nullptr) {
        static const int registered = pthread_atfork(nullptr, nullptr, [] { pool_instance.store(new Pool); });
        (void)registered;
        Pool* fresh = new Pool;
        if (pool_instance.compare_exchange_strong(found, fresh)) return *fresh;
        delete fresh;
        return *pool_instance.load();
    }
    return *found;
}

}  // namespace

void parallel(int threads, i64 count, const std::function<void(i64)>& task) {
    if (threads > 1 && count > 1 && pool().run(threads, count, task)) return;
    for (i64 i = 0; i < count; ++i) task(i);
}

void parallel_ranges(int threads, i64 count, i64 grain, i64 align, const std::function<void(i64, i64)>& task) {
    // Several pieces a thread: on a machine with other work, the threads do not advance alike.
    const i64 pieces = threads <= 1 ? 1 : std::min<i64>(4 * threads, count / std::max<i64>(grain, 1));
    if (pieces <= 1) {
        if (count > 0) task(0, count);
        return;
    }
    const i64 size = ((count + pieces - 1) / pieces + align - 1) / align * align;
    parallel(threads, (count + size - 1) / size, [&](i64 i) { task(i * size, std::min(count, (i + 1) * size)); });
}

}  // namespace tv
