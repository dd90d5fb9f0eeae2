#include "thread_pool.h"

#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gemlora {
namespace {

// About 50 µs: longer than the gap between two kernels of a step, shorter than the gap between steps of an idle server.
constexpr int spins = 2000;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb"); // takes about as long as the other's pause; the hint `yield` returns at once
#else
    std::this_thread::yield();
#endif
}

} // namespace

ThreadPool::ThreadPool(int threads) : runs_(static_cast<std::size_t>(threads)) {
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    try {
        for (int thread = 1; thread < threads; ++thread) {
            workers_.emplace_back([this, thread] { work(thread); });
        }
    } catch (...) { // the system has no more threads
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stop_ = true;
    ++generation_;
    generation_.notify_all();
    for (std::thread& worker : workers_) {
        worker.join();
    }
}

void ThreadPool::run_call(const Job& job) {
    if (job.tasks <= 1 || workers_.empty()) {
        for (std::int64_t task = 0; task < job.tasks; ++task) {
            job.call(job.body, task, 0);
        }
        return;
    }
    job_ = job;
    const auto threads = static_cast<std::int64_t>(runs_.size());
    for (std::int64_t thread = 0; thread < threads; ++thread) {
        Run& run = runs_[static_cast<std::size_t>(thread)];
        run.next = job.tasks * thread / threads;
        run.end = job.tasks * (thread + 1) / threads;
    }
    open_ = true;
    ++generation_;
    generation_.notify_all();
    take_tasks(0);
    // A worker that is still asleep now finds the job closed; only those inside are waited for.
    open_ = false;
    for (int spin = 0; inside_ != 0; ++spin) {
        if (spin < spins) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
    if (failure_) {
        std::rethrow_exception(std::exchange(failure_, nullptr));
    }
}

void ThreadPool::work(int thread) {
    std::uint32_t seen = 0;
    while (await_next(seen)) {
        ++inside_;
        if (open_) {
            take_tasks(thread);
        }
        --inside_;
    }
}

void ThreadPool::take_tasks(int thread) {
    const auto own = static_cast<std::size_t>(thread);
    for (std::size_t i = 0; i < runs_.size(); ++i) {
        Run& run = runs_[(own + i) % runs_.size()];
        while (run.next < run.end) { // lest all threads write to the line of a run that is done
            const std::int64_t task = run.next++;
            if (task >= run.end) {
                break;
            }
            try {
                job_.call(job_.body, task, thread);
            } catch (...) {
                const std::lock_guard lock(failure_mutex_);
                failure_ = std::current_exception();
            }
        }
    }
}

bool ThreadPool::await_next(std::uint32_t& seen) {
    for (int spin = 0; spin < spins && generation_ == seen; ++spin) {
        pause();
    }
    generation_.wait(seen);
    seen = generation_;
    return !stop_;
}

} // namespace gemlora
