/* Preloaded into a process: writes down every call that changes files below a folder, and lets one of them fail.
 *
 * A record in the log is its kind (1 byte), two lengths, the file's number and an offset (8 bytes each, in the machine's
 * order), then a path and further bytes of those lengths. Kinds: create, mkdir, Write, Truncate, sync, rename, unlink
 * (rmdir too), nothing (the call failed or had nothing to change). `file_calls.py` reads them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static char root[PATH_MAX];
static int log_file = -1;
static long countdown;
static int failure;
static long seen;

#define REAL(result, name, parameters) ((result(*) parameters)dlsym(RTLD_NEXT, #name))

/* Begin to watch `folder` and to append to `log` (NULL: only count and fail). */
void file_calls_watch(const char *folder, const char *log) {
    snprintf(root, sizeof root, "%s", folder);
    log_file = log ? REAL(int, open64, (const char *, int, ...))(log, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    seen = 0;
}

/* Let the `nth` call from now fail with `code`, or send the process the signal `-code`; `nth` 0: none. */
void file_calls_fail(long nth, int code) {
    countdown = nth;
    failure = code;
}

/* How many calls there have been since the watch began. */
long file_calls_seen(void) { return seen; }

static int below_root(const char *path) {
    size_t length = strlen(root);
    return length && path && !strncmp(path, root, length) && path[length] == '/';
}

/* Whether `file` is an open file below the folder; its path is put there. */
static int watched(int file, char path[PATH_MAX]) {
    char link[64];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below_root(path) || !strcmp(path, root);
}

static long number_of(int file) {
    struct stat status;
    return fstat(file, &status) ? -1 : (long)status.st_ino;
}

static long number_at(const char *path) {
    struct stat status;
    return lstat(path, &status) ? -1 : (long)status.st_ino;
}

/* Count a call; whether it has to fail. */
static int fails(void) {
    seen++;
    if (countdown == 0 || --countdown) return 0;
    if (failure < 0) kill(getpid(), -failure);
    errno = failure;
    return 1;
}

static void put(char kind, long file, long offset, const void *first, size_t length, const void *second, size_t more) {
    if (log_file < 0) return;
    ssize_t (*write_)(int, const void *, size_t) = REAL(ssize_t, write, (int, const void *, size_t));
    size_t header[] = {length, more, (size_t)file, (size_t)offset};
    int kept = errno;
    if (write_(log_file, &kind, 1) < 0 || write_(log_file, header, sizeof header) < 0 ||
        write_(log_file, first, length) < 0 || (more && write_(log_file, second, more) < 0))
        abort();
    errno = kept;
}

static void put_path(char kind, long file, const char *path) { put(kind, file, 0, path, strlen(path), "", 0); }

#define WITH_LOCK(type, body)        \
    pthread_mutex_lock(&lock);       \
    type result = -1;                \
    body;                            \
    pthread_mutex_unlock(&lock);     \
    return result

static int open_watched(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (!below_root(path) || !(flags & (O_WRONLY | O_RDWR | O_CREAT))) return real(path, flags, mode);
    WITH_LOCK(int, {
        int fresh = (flags & O_CREAT) && number_at(path) < 0;
        if (!fails()) {
            result = real(path, flags, mode);
            if (result >= 0 && !fresh && (flags & O_TRUNC)) put('T', number_of(result), 0, path, strlen(path), "", 0);
            else put_path(result >= 0 && fresh ? 'c' : 'n', number_of(result), path);
        }
    });
}

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...) {                                       \
        va_list arguments;                                                             \
        va_start(arguments, flags);                                                    \
        mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;                 \
        va_end(arguments);                                                             \
        return open_watched(REAL(int, name, (const char *, int, ...)), path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *bytes, size_t length) {
    char path[PATH_MAX];
    ssize_t (*real)(int, const void *, size_t) = REAL(ssize_t, write, (int, const void *, size_t));
    if (file == log_file || !watched(file, path)) return real(file, bytes, length);
    WITH_LOCK(ssize_t, {
        int append = fcntl(file, F_GETFL) & O_APPEND;
        long offset = lseek(file, 0, append ? SEEK_END : SEEK_CUR);
        if (!fails()) result = real(file, bytes, length);
        if (result > 0) put('W', number_of(file), offset, path, strlen(path), bytes, (size_t)result);
        else put_path('n', 0, path);
    });
}

#define PWRITE(name, offset_type)                                                                         \
    ssize_t name(int file, const void *bytes, size_t length, offset_type offset) {                        \
        char path[PATH_MAX];                                                                              \
        ssize_t (*real)(int, const void *, size_t, offset_type) =                                         \
            REAL(ssize_t, name, (int, const void *, size_t, offset_type));                                \
        if (!watched(file, path)) return real(file, bytes, length, offset);                               \
        WITH_LOCK(ssize_t, {                                                                              \
            if (!fails()) result = real(file, bytes, length, offset);                                     \
            if (result > 0) put('W', number_of(file), offset, path, strlen(path), bytes, (size_t)result); \
            else put_path('n', 0, path);                                                                  \
        });                                                                                               \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, size_type)                                                              \
    int name(int file, size_type size) {                                                       \
        char path[PATH_MAX];                                                                   \
        int (*real)(int, size_type) = REAL(int, name, (int, size_type));                       \
        if (!watched(file, path)) return real(file, size);                                     \
        WITH_LOCK(int, {                                                                       \
            if (!fails()) result = real(file, size);                                           \
            put(result ? 'n' : 'T', number_of(file), size, path, strlen(path), "", 0);         \
        });                                                                                    \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                      \
    int name(int file) {                                                \
        char path[PATH_MAX];                                            \
        int (*real)(int) = REAL(int, name, (int));                      \
        if (!watched(file, path)) return real(file);                    \
        WITH_LOCK(int, {                                                \
            if (!fails()) result = real(file);                          \
            put_path(result ? 'n' : 's', number_of(file), path);        \
        });                                                             \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = REAL(int, rename, (const char *, const char *));
    if (!below_root(from)) return real(from, to);
    WITH_LOCK(int, {
        if (!fails()) result = real(from, to);
        put(result ? 'n' : 'r', number_at(to), 0, from, strlen(from), to, strlen(to));
    });
}

#define PATH_CALL(name, kind, declared, parameters, given)                        \
    int name parameters {                                                         \
        int(*real) parameters = REAL(int, name, parameters);                      \
        if (!below_root(path)) return real given;                                 \
        WITH_LOCK(int, {                                                          \
            long before = number_at(path);                                        \
            if (!fails()) result = real given;                                    \
            put_path(result ? 'n' : kind, before < 0 ? number_at(path) : before, path); \
        });                                                                       \
    }
PATH_CALL(unlink, 'u', , (const char *path), (path))
PATH_CALL(rmdir, 'u', , (const char *path), (path))
PATH_CALL(mkdir, 'm', , (const char *path, mode_t mode), (path, mode))
