// Loaded before libc into a process: writes down what it does to the files under EDGECL_RECORD_ROOT, in the order in
// which it is done, with the data, into the file EDGECL_RECORD_LOG. With EDGECL_CLOCK it also shows another wall clock:
// `1970` one that was never set, `jumping` one that is set to and fro.
//
// A record is a length (uint32) and that many bytes: an operation (one character), two numbers (int64), and two texts, each
// with its length (uint32). tests/deploy/medium.py reads them. Calls that fail are not written down.

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <string>

namespace {

template <typename Function> Function *real(const char *name) {
    return reinterpret_cast<Function *>(dlsym(RTLD_NEXT, name));
}

const std::string &root() {
    static const std::string found = getenv("EDGECL_RECORD_ROOT") ? getenv("EDGECL_RECORD_ROOT") : "";
    return found;
}

void put(std::string &record, uint32_t number) { record.append(reinterpret_cast<char *>(&number), 4); }

void note(char operation, int64_t first, int64_t second, const std::string &text, const std::string &more) {
    static std::mutex one;
    static const char *const path = getenv("EDGECL_RECORD_LOG");
    if (!path) return;
    std::string body(1, operation);
    body.append(reinterpret_cast<char *>(&first), 8).append(reinterpret_cast<char *>(&second), 8);
    put(body, text.size());
    body += text;
    put(body, more.size());
    body += more;
    std::string record;
    put(record, body.size());
    record += body;
    std::lock_guard<std::mutex> held(one);
    const int before = errno;
    const int log = real<int(const char *, int, ...)>("open")(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log < 0 || real<ssize_t(int, const void *, size_t)>("write")(log, record.data(), record.size()) < 0) abort();
    real<int(int)>("close")(log);
    errno = before;
}

std::string of_file(int file) {
    char path[4096];
    const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(file)).c_str(), path, sizeof path);
    return length > 0 ? std::string(path, length) : "";
}

std::string whole(int folder, const char *path) {
    if (path[0] == '/') return path;
    if (folder != AT_FDCWD) return of_file(folder) + "/" + path;
    char here[4096];
    return std::string(getcwd(here, sizeof here) ? here : "") + "/" + path;
}

bool inside(const std::string &path) { return !root().empty() && path.compare(0, root().size(), root()) == 0; }

bool exists(const std::string &path) {
    struct stat found;
    return lstat(path.c_str(), &found) == 0;
}

int64_t inode(int file) {
    struct stat found;
    return fstat(file, &found) == 0 ? static_cast<int64_t>(found.st_ino) : -1;
}

int opened(const char *name, int folder, const char *path, int flags, mode_t mode) {
    using Open = int(int, const char *, int, ...);
    const std::string place = whole(folder, path);
    const bool writes = (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0 && inside(place);
    const bool before = writes && exists(place);
    (void)name;
    const int file = real<Open>("openat")(folder, path, flags, mode);
    if (file >= 0 && writes) note('C', inode(file), (before ? 1 : 0) | (flags & O_TRUNC ? 2 : 0), place, "");
    return file;
}

void wrote(int file, ssize_t count, int64_t offset, const void *data) {
    if (count > 0 && inside(of_file(file))) {
        note('W', inode(file), offset, "", std::string(static_cast<const char *>(data), count));
    }
}

int synced(const char *name, int file) {
    const int done = real<int(int)>(name)(file);
    if (done == 0 && inside(of_file(file))) note('F', inode(file), 0, of_file(file), "");
    return done;
}

int named(int done, char operation, const std::string &from, const std::string &to) {
    if (done == 0 && (inside(from) || inside(to))) note(operation, 0, 0, from, to);
    return done;
}

}  // namespace

extern "C" {

#define MODE                                   \
    mode_t mode = 0;                           \
    if (flags & (O_CREAT | __O_TMPFILE)) {     \
        va_list more;                          \
        va_start(more, flags);                 \
        mode = va_arg(more, mode_t);           \
        va_end(more);                          \
    }

int open(const char *path, int flags, ...) { MODE return opened("open", AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened("open64", AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE return opened("openat", folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE return opened("openat64", folder, path, flags, mode); }
int __open_2(const char *path, int flags) { return opened("open", AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened("open64", AT_FDCWD, path, flags, 0); }

ssize_t write(int file, const void *data, size_t size) {
    const ssize_t done = real<ssize_t(int, const void *, size_t)>("write")(file, data, size);
    if (done > 0 && !root().empty()) wrote(file, done, lseek(file, 0, SEEK_CUR) - done, data);
    return done;
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    const ssize_t done = real<ssize_t(int, const void *, size_t, off64_t)>("pwrite64")(file, data, size, offset);
    wrote(file, done, offset, data);
    return done;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

int ftruncate64(int file, off64_t size) {
    const int done = real<int(int, off64_t)>("ftruncate64")(file, size);
    if (done == 0 && inside(of_file(file))) note('T', inode(file), size, "", "");
    return done;
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int fsync(int file) { return synced("fsync", file); }
int fdatasync(int file) { return synced("fdatasync", file); }

int renameat(int one, const char *from, int other, const char *to) {
    const std::string before = whole(one, from), after = whole(other, to);
    return named(real<int(int, const char *, int, const char *)>("renameat")(one, from, other, to), 'R', before, after);
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int linkat(int one, const char *from, int other, const char *to, int flags) {
    const std::string before = whole(one, from), after = whole(other, to);
    const auto function = real<int(int, const char *, int, const char *, int)>("linkat");
    return named(function(one, from, other, to, flags), 'L', before, after);
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *target, int folder, const char *path) {
    const std::string place = whole(folder, path);
    return named(real<int(const char *, int, const char *)>("symlinkat")(target, folder, path), 'S', target, place);
}

int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int unlinkat(int folder, const char *path, int flags) {
    const std::string place = whole(folder, path);
    return named(real<int(int, const char *, int)>("unlinkat")(folder, path, flags), 'U', place, "");
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    const std::string place = whole(folder, path);
    const int done = real<int(int, const char *, mode_t)>("mkdirat")(folder, path, mode);
    struct stat found;
    if (done == 0 && inside(place) && stat(place.c_str(), &found) == 0) {
        note('M', static_cast<int64_t>(found.st_ino), 0, place, "");
    }
    return done;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static const auto function = real<int(clockid_t, struct timespec *)>("clock_gettime");
    static const char *const how = getenv("EDGECL_CLOCK");
    static std::atomic<unsigned> asked{0};
    const int done = function(clock, now);
    if (done == 0 && how && clock == CLOCK_REALTIME) {
        struct timespec up;
        function(CLOCK_MONOTONIC, &up);
        const bool jumps = strcmp(how, "jumping") == 0;
        const unsigned turn = asked++ / 3 % 3;
        if (!jumps || turn == 0) *now = up;                           // 1970, and as long as the machine is up
        if (jumps && turn == 1) now->tv_sec += 20L * 365 * 24 * 3600;  // decades ahead
    }
    return done;
}

}  // extern "C"
