/* The machine's limits: `limits THREADS` prints int8 multiply-adds and bytes read from memory per second as JSON.

   int8: vpdpbusd on registers alone. Memory: one pass over 512 MiB that all threads share, far more than any cache.
   The best of several short runs, since whatever else runs only takes away. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

enum { RUNS = 5, LOOPS = 4000000, MOST_THREADS = 256 };
static const size_t BYTES = (size_t)512 << 20;

typedef struct {
    const char* data;
    size_t size;
    double result;
} Work;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Multiply-adds of one thread: 16 independent sums hide the instruction's latency. */
static double multiply(void) {
#if defined(__AVX512VNNI__)
    __m512i sums[16], left = _mm512_set1_epi8(3), right = _mm512_set1_epi8(5);
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_epi32(i);
    for (int loop = 0; loop < LOOPS; ++loop) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            sums[i] = _mm512_dpbusd_epi32(sums[i], left, right);
            __asm__ volatile("" : "+v"(sums[i]));
        }
    }
    for (int i = 1; i < 16; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    volatile int keep = _mm512_reduce_add_epi32(sums[0]);
    (void)keep;
    return 64.0 * 16.0 * LOOPS;
#else
    return 0;
#endif
}

/* Bytes that one thread reads. */
static double read_memory(const char* data, size_t size) {
#if defined(__AVX512VNNI__)
    __m512i sums[8];
    for (int i = 0; i < 8; ++i) sums[i] = _mm512_setzero_si512();
    for (size_t at = 0; at + 512 <= size; at += 512) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i)
            sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512((const void*)(data + at + 64 * (size_t)i)));
    }
    for (int i = 1; i < 8; ++i) sums[0] = _mm512_xor_si512(sums[0], sums[i]);
    volatile int keep = _mm512_reduce_add_epi32(sums[0]);
#else
    unsigned long sums[8] = {0};
    const unsigned long* words = (const unsigned long*)data;
    for (size_t at = 0; at + 8 <= size / sizeof *words; at += 8)
        for (int i = 0; i < 8; ++i) sums[i] ^= words[at + (size_t)i];
    volatile unsigned long keep = sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
#endif
    (void)keep;
    return (double)size;
}

static void* work(void* argument) {
    Work* mine = argument;
    mine->result = mine->data ? read_memory(mine->data, mine->size) : multiply();
    return NULL;
}

/* The most that `threads` threads did per second together. */
static double best(int threads, const char* data) {
    double most = 0;
    for (int run = 0; run < RUNS; ++run) {
        pthread_t started[MOST_THREADS];
        Work works[MOST_THREADS];
        size_t share = BYTES / (size_t)threads / 4096 * 4096;
        double begin = now(), done = 0;
        for (int i = 0; i < threads; ++i) {
            works[i] = (Work){data ? data + share * (size_t)i : NULL, share, 0};
            if (pthread_create(&started[i], NULL, work, &works[i])) exit(1);
        }
        for (int i = 0; i < threads; ++i) {
            pthread_join(started[i], NULL);
            done += works[i].result;
        }
        double rate = done / (now() - begin);
        if (rate > most) most = rate;
    }
    return most;
}

int main(int count, char** arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    char* data = aligned_alloc(4096, BYTES);
    if (threads < 1 || threads > MOST_THREADS || !data) return 1;
    memset(data, 1, BYTES);
    printf("{\"int8_gmacs_per_second\": %.1f, ", best(threads, NULL) / 1e9);
    printf("\"read_gigabytes_per_second\": %.1f}\n", best(threads, data) / 1e9);
    return 0;
}
