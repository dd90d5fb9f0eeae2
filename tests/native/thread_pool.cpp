// Exercises the thread pool by itself: prints what went wrong, and returns how much did.
#include "thread_pool.h"

#include <atomic>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <thread>

using namespace gemlora;

namespace {

int failures = 0;

void expect(bool holds, const char* what, int threads, std::int64_t tasks) {
    if (!holds) {
        std::printf("%s (%d threads, %lld tasks)\n", what, threads, static_cast<long long>(tasks));
        ++failures;
    }
}

void every_task_runs_once(ThreadPool& pool, std::int64_t tasks) {
    const auto times = std::make_unique<std::atomic<int>[]>(static_cast<std::size_t>(tasks));
    pool.run(tasks, [&](std::int64_t task, int thread) {
        expect(thread >= 0 && thread < pool.size(), "a thread of another pool", pool.size(), tasks);
        ++times[static_cast<std::size_t>(task)];
    });
    for (std::int64_t task = 0; task < tasks; ++task) {
        expect(times[static_cast<std::size_t>(task)] == 1, "a task did not run once", pool.size(), tasks);
    }
}

// The first task ends only when all others have, so others must take those of its thread's run.
void others_take_what_a_busy_thread_leaves(ThreadPool& pool) {
    constexpr std::int64_t tasks = 100;
    std::atomic<std::int64_t> done = 0;
    pool.run(tasks, [&](std::int64_t task, int) {
        while (task == 0 && done < tasks - 1) {
            std::this_thread::yield();
        }
        ++done;
    });
    expect(done == tasks, "a task is missing", pool.size(), tasks);
}

void what_a_task_throws_reaches_the_caller(ThreadPool& pool, std::int64_t tasks) {
    bool caught = false;
    try {
        pool.run(tasks, [&](std::int64_t task, int) {
            if (task == tasks - 1) {
                throw std::runtime_error("of the last task");
            }
        });
    } catch (const std::runtime_error&) {
        caught = true;
    }
    expect(caught, "nothing was thrown", pool.size(), tasks);
    every_task_runs_once(pool, tasks);
}

} // namespace

int main() {
    for (const int threads : {1, 2, 7}) {
        ThreadPool pool(threads);
        for (int again = 0; again < 200; ++again) {
            for (const std::int64_t tasks : {0, 1, 3, 1000}) {
                every_task_runs_once(pool, tasks);
            }
        }
        for (const std::int64_t tasks : {1, 3, 1000}) {
            what_a_task_throws_reaches_the_caller(pool, tasks);
        }
        if (threads > 1) {
            others_take_what_a_busy_thread_leaves(pool);
        }
    }
    return failures;
}
