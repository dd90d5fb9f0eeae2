// Threads that share the tasks of one call at a time: they spin briefly for the next call, then sleep. Each has a run of
// consecutive tasks, which often read consecutive memory, and takes from the others' when it is done with its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace gemlora {

class ThreadPool {
public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Threads including the caller.
    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // function(task, thread) for every task in [0, tasks), in any order; returns when all are done, or throws what one
    // of them threw.
    template <class Function>
    void run(std::int64_t tasks, Function&& function) {
        using Body = std::remove_reference_t<Function>;
        auto call = [](void* body, std::int64_t task, int thread) { (*static_cast<Body*>(body))(task, thread); };
        run_call({call, &function, tasks});
    }

private:
    struct Job {
        void (*call)(void*, std::int64_t, int);
        void* body;
        std::int64_t tasks;
    };

    // The tasks of a thread's run that are left.
    struct alignas(64) Run {
        std::atomic<std::int64_t> next{0};
        std::int64_t end = 0;
    };

    void run_call(const Job& job);
    void work(int thread);
    void take_tasks(int thread);
    bool await_next(std::uint32_t& seen);
    void stop();

    Job job_{};
    std::vector<Run> runs_; // one a thread
    alignas(64) std::atomic<std::uint32_t> generation_{0}; // grows with every call; workers wait on it
    alignas(64) std::atomic<std::uint32_t> inside_{0};     // workers that may be reading job_
    std::atomic<bool> open_{false};                        // whether job_ may be joined
    std::atomic<bool> stop_{false};
    std::mutex failure_mutex_;
    std::exception_ptr failure_; // of a task of this call
    std::vector<std::thread> workers_;
};

} // namespace gemlora
