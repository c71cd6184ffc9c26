/* Records every change that a program makes to the files under one directory.
 *
 * Loaded with LD_PRELOAD. Each call that changes files, names or what is synced is made and logged under one lock
 * (a mutex between threads, a file lock between processes), so that the order of the log is the order of the calls.
 * Only what succeeded is logged. What cannot be logged truly is logged as UNTRACEABLE, and the reader refuses the log.
 *
 * Environment: TRACE_DIRECTORY (absolute, no links), TRACE_FILE (the log), TRACE_MARKERS (a file that is not one:
 * what is written to it goes into the log as a marker), TRACE_EXCLUDE (a base name that is left alone; may be empty).
 *
 * The calls are made as system calls, so nothing here calls itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    CREATE = 1, WRITE, RESIZE, ALLOCATE, RENAME, UNLINK, MKDIR, RMDIR, LINK, SYNC, SYNC_ALL, MARK, UNTRACEABLE
};

struct header {
    uint32_t op, durable; /* durable: a write through a descriptor opened with O_SYNC or O_DSYNC */
    uint64_t inode, offset, size;
    uint32_t first, second, data, unused; /* lengths of two paths and of the data, which follow */
};

enum { NOT_OURS = 0, OURS, MARKERS };
struct descriptor { char kind, durable; };

#define DESCRIPTORS 65536
static struct descriptor table[DESCRIPTORS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX], log_path[PATH_MAX], markers[PATH_MAX], excluded[NAME_MAX + 1];
static size_t directory_length;
static int log_fd = -1;
static pid_t process;

static void die(const char *what)
{
    fprintf(stderr, "recorder: %s: %s\n", what, strerror(errno));
    abort();
}

static void open_log(void)
{
    int fd = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) die(log_path);
    log_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 900); /* out of the way of programs that count descriptors */
    if (log_fd < 0) die("dup");
    syscall(SYS_close, fd);
    process = getpid();
}

static void before_fork(void) { pthread_mutex_lock(&mutex); }
static void in_parent(void) { pthread_mutex_unlock(&mutex); }
static void in_child(void)
{
    syscall(SYS_close, log_fd); /* a file lock belongs to the open file: the child needs its own */
    open_log();
    pthread_mutex_unlock(&mutex);
}

static void setting(const char *name, char *into, size_t size)
{
    const char *value = getenv(name);
    if (value && strlen(value) < size) strcpy(into, value);
}

__attribute__((constructor)) static void start(void)
{
    setting("TRACE_DIRECTORY", directory, sizeof directory);
    setting("TRACE_FILE", log_path, sizeof log_path);
    setting("TRACE_MARKERS", markers, sizeof markers);
    setting("TRACE_EXCLUDE", excluded, sizeof excluded);
    directory_length = strlen(directory);
    if (!directory_length || !log_path[0]) return;
    open_log();
    pthread_atfork(before_fork, in_parent, in_child);
}

/* Between vfork and exec a child runs in the parent's memory: it must not touch the table. */
static int active(void) { return log_fd >= 0 && getpid() == process; }

static void lock(void)
{
    pthread_mutex_lock(&mutex);
    while (syscall(SYS_flock, log_fd, LOCK_EX) < 0)
        if (errno != EINTR) die("flock");
}

static void unlock(void)
{
    int kept = errno;
    syscall(SYS_flock, log_fd, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static void record(struct header head, const char *first, const char *second, const struct iovec *data, int count)
{
    int kept = errno;
    size_t rest = head.data;
    head.first = first ? strlen(first) : 0;
    head.second = second ? strlen(second) : 0;
    struct iovec parts[1024 + 3] = {
        {&head, sizeof head}, {(void *)first, head.first}, {(void *)second, head.second}};
    int used = 3;
    for (int i = 0; i < count && rest; i++) {
        size_t length = data[i].iov_len < rest ? data[i].iov_len : rest;
        parts[used].iov_base = data[i].iov_base;
        parts[used++].iov_len = length;
        rest -= length;
    }
    struct iovec *next = parts;
    while (used) {
        ssize_t done = syscall(SYS_writev, log_fd, next, used);
        if (done < 0) {
            if (errno == EINTR) continue;
            die("writing the log");
        }
        while (used && (size_t)done >= next->iov_len) {
            done -= next->iov_len;
            next++;
            used--;
        }
        if (used) {
            next->iov_base = (char *)next->iov_base + done;
            next->iov_len -= done;
        }
    }
    errno = kept;
}

static void refuse(const char *call)
{
    record((struct header){.op = UNTRACEABLE}, call, NULL, NULL, 0);
}

/* 0 if it is neither file nor directory: the number was closed behind our back and is a socket or pipe by now. */
static uint64_t inode_of(int fd)
{
    struct stat found;
    if (fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))) return 0;
    return found.st_ino;
}

static const char *absolute(int at, const char *path, char *into)
{
    char link[64];
    ssize_t length = 0;
    if (path[0] == '/') {
        snprintf(into, PATH_MAX, "%s", path);
        return into;
    }
    if (at == AT_FDCWD) {
        if (!getcwd(into, PATH_MAX)) return "";
        length = strlen(into);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        length = readlink(link, into, PATH_MAX - 1);
        if (length < 0) return "";
    }
    snprintf(into + length, PATH_MAX - length, "/%s", path);
    return into;
}

static int ours(const char *path)
{
    const char *name = strrchr(path, '/');
    if (strncmp(path, directory, directory_length)) return 0;
    if (path[directory_length] != '/' && path[directory_length]) return 0;
    return !(name && excluded[0] && !strcmp(name + 1, excluded));
}

static struct descriptor *entry(int fd)
{
    static struct descriptor none;
    return fd >= 0 && fd < DESCRIPTORS ? &table[fd] : &none;
}

/* --- opening and closing --- */

static int open_at(int at, const char *path, int flags, mode_t mode)
{
    char whole[PATH_MAX];
    struct stat found;
    if (!active()) return syscall(SYS_openat, at, path, flags, mode);
    absolute(at, path, whole);
    int marker = markers[0] && !strcmp(whole, markers);
    if (!marker && !ours(whole)) {
        int fd = syscall(SYS_openat, at, path, flags, mode);
        if (fd >= 0) entry(fd)->kind = NOT_OURS;
        return fd;
    }
    lock();
    int there = !lstat(whole, &found);
    int fd = syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0) {
        *entry(fd) = (struct descriptor){marker ? MARKERS : OURS, (flags & O_DSYNC) != 0};
        if (!marker) {
            if ((flags & O_TMPFILE) == O_TMPFILE) refuse("open with O_TMPFILE");
            else if (!there) record((struct header){.op = CREATE, .inode = inode_of(fd)}, whole, NULL, NULL, 0);
            else if (flags & O_TRUNC) record((struct header){.op = RESIZE, .inode = inode_of(fd)}, NULL, NULL, NULL, 0);
        }
    }
    unlock();
    return fd;
}

#define MODE(last)                                     \
    mode_t mode = 0;                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {               \
        va_list rest;                                  \
        va_start(rest, last);                          \
        mode = va_arg(rest, int);                      \
        va_end(rest);                                  \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_at(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd)
{
    if (active()) entry(fd)->kind = NOT_OURS;
    return syscall(SYS_close, fd);
}

static int copied(int from, int to)
{
    if (to >= 0 && active()) *entry(to) = *entry(from);
    return to;
}

int dup(int fd) { return copied(fd, syscall(SYS_dup, fd)); }
int dup2(int fd, int to) { return copied(fd, fd == to ? syscall(SYS_fcntl, fd, F_GETFD) < 0 ? -1 : to : syscall(SYS_dup3, fd, to, 0)); }
int dup3(int fd, int to, int flags) { return copied(fd, syscall(SYS_dup3, fd, to, flags)); }

static int control(int fd, int command, void *argument)
{
    int result = syscall(SYS_fcntl, fd, command, argument);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) copied(fd, result);
    return result;
}

int fcntl(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control(fd, command, argument);
}

int fcntl64(int fd, int command, ...)
{
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    return control(fd, command, argument);
}

/* --- data --- */

static void wrote(int fd, const struct iovec *parts, int count, ssize_t done, uint64_t offset)
{
    if (done <= 0) return;
    if (count > 1024) die("too many parts in one write");
    if (!inode_of(fd))
        entry(fd)->kind = NOT_OURS;
    else if (entry(fd)->kind == MARKERS)
        record((struct header){.op = MARK, .data = done}, NULL, NULL, parts, count);
    else
        record((struct header){.op = WRITE, .durable = entry(fd)->durable, .inode = inode_of(fd), .offset = offset,
                               .data = done}, NULL, NULL, parts, count);
}

static uint64_t position(int fd)
{
    struct stat found;
    if ((syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND) && !fstat(fd, &found)) return found.st_size;
    return syscall(SYS_lseek, fd, 0, SEEK_CUR);
}

static int watched(int fd) { return active() && entry(fd)->kind != NOT_OURS; }

ssize_t write(int fd, const void *data, size_t size)
{
    struct iovec part = {(void *)data, size};
    if (!watched(fd)) return syscall(SYS_write, fd, data, size);
    lock();
    uint64_t at = position(fd);
    ssize_t done = syscall(SYS_write, fd, data, size);
    wrote(fd, &part, 1, done, at);
    unlock();
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (!watched(fd)) return syscall(SYS_writev, fd, parts, count);
    lock();
    uint64_t at = position(fd);
    ssize_t done = syscall(SYS_writev, fd, parts, count);
    wrote(fd, parts, count, done, at);
    unlock();
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    struct iovec part = {(void *)data, size};
    if (!watched(fd)) return syscall(SYS_pwrite64, fd, data, size, offset);
    lock();
    ssize_t done = syscall(SYS_pwrite64, fd, data, size, offset);
    wrote(fd, &part, 1, done, offset);
    unlock();
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return pwrite(fd, data, size, offset); }

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    if (!watched(fd)) return syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags);
    lock();
    uint64_t at = offset == -1 ? position(fd) : (uint64_t)offset;
    ssize_t done = syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags);
    if (flags) refuse("pwritev2 with flags");
    wrote(fd, parts, count, done, at);
    unlock();
    return done;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev2(fd, parts, count, offset, 0); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev2(fd, parts, count, offset, 0); }
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags) { return pwritev2(fd, parts, count, offset, flags); }

int ftruncate(int fd, off_t size)
{
    if (!watched(fd)) return syscall(SYS_ftruncate, fd, size);
    lock();
    int result = syscall(SYS_ftruncate, fd, size);
    if (!result) record((struct header){.op = RESIZE, .inode = inode_of(fd), .size = size}, NULL, NULL, NULL, 0);
    unlock();
    return result;
}

int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int truncate(const char *path, off_t size)
{
    int fd = open_at(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = ftruncate(fd, size);
    close(fd);
    return result;
}

int truncate64(const char *path, off_t size) { return truncate(path, size); }

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    if (!watched(fd)) return syscall(SYS_fallocate, fd, mode, offset, length);
    lock();
    int result = syscall(SYS_fallocate, fd, mode, offset, length);
    if (!result && (mode & ~FALLOC_FL_KEEP_SIZE)) refuse("fallocate with a mode");
    else if (!result && !mode)
        record((struct header){.op = ALLOCATE, .inode = inode_of(fd), .size = offset + length}, NULL, NULL, NULL, 0);
    unlock();
    return result;
}

int fallocate64(int fd, int mode, off_t offset, off_t length) { return fallocate(fd, mode, offset, length); }

int posix_fallocate(int fd, off_t offset, off_t length)
{
    int kept = errno;
    int result = fallocate(fd, 0, offset, length) ? errno : 0;
    errno = kept;
    return result;
}

int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED) && watched(fd)) {
        lock();
        refuse("mmap shared and writable");
        unlock();
    }
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return mmap(address, length, protection, flags, fd, offset);
}

static void refuse_if_watched(int fd, const char *call)
{
    if (!watched(fd)) return;
    lock();
    refuse(call);
    unlock();
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
    refuse_if_watched(out, "sendfile");
    return syscall(SYS_sendfile, out, in, offset, count);
}

ssize_t sendfile64(int out, int in, off_t *offset, size_t count) { return sendfile(out, in, offset, count); }

ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t length, unsigned flags)
{
    refuse_if_watched(out, "copy_file_range");
    return syscall(SYS_copy_file_range, in, from, out, to, length, flags);
}

int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
{
    refuse_if_watched(fd, "fsetxattr");
    return syscall(SYS_fsetxattr, fd, name, value, size, flags);
}

int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)
{
    char whole[PATH_MAX];
    if (active() && ours(absolute(AT_FDCWD, path, whole))) {
        lock();
        refuse("setxattr");
        unlock();
    }
    return syscall(SYS_setxattr, path, name, value, size, flags);
}

/* --- what is synced; sync_file_range promises nothing and is left out --- */

static int synced(int fd, long call)
{
    if (!watched(fd)) return syscall(call, fd);
    lock();
    int result = syscall(call, fd);
    if (!result) record((struct header){.op = SYNC, .inode = inode_of(fd)}, NULL, NULL, NULL, 0);
    unlock();
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

void sync(void)
{
    if (!active()) {
        syscall(SYS_sync);
        return;
    }
    lock();
    syscall(SYS_sync);
    record((struct header){.op = SYNC_ALL}, NULL, NULL, NULL, 0);
    unlock();
}

int syncfs(int fd)
{
    if (!watched(fd)) return syscall(SYS_syncfs, fd);
    lock();
    int result = syscall(SYS_syncfs, fd);
    if (!result) record((struct header){.op = SYNC_ALL}, NULL, NULL, NULL, 0);
    unlock();
    return result;
}

/* --- names --- */

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags)
{
    char first[PATH_MAX], second[PATH_MAX];
    if (!active()) return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    absolute(from_at, from, first);
    absolute(to_at, to, second);
    int leaves = ours(first), comes = ours(second);
    if (!leaves && !comes) return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    lock();
    int result = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    if (!result && (leaves != comes || flags & ~RENAME_NOREPLACE)) refuse("rename across the directory's edge");
    else if (!result) record((struct header){.op = RENAME}, first, second, NULL, 0);
    unlock();
    return result;
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return renameat2(from_at, from, to_at, to, 0); }

int unlinkat(int at, const char *path, int flags)
{
    char whole[PATH_MAX];
    if (!active() || !ours(absolute(at, path, whole))) return syscall(SYS_unlinkat, at, path, flags);
    lock();
    int result = syscall(SYS_unlinkat, at, path, flags);
    if (!result) record((struct header){.op = flags & AT_REMOVEDIR ? RMDIR : UNLINK}, whole, NULL, NULL, 0);
    unlock();
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode)
{
    char whole[PATH_MAX];
    struct stat found;
    if (!active() || !ours(absolute(at, path, whole))) return syscall(SYS_mkdirat, at, path, mode);
    lock();
    int result = syscall(SYS_mkdirat, at, path, mode);
    if (!result && !lstat(whole, &found))
        record((struct header){.op = MKDIR, .inode = found.st_ino}, whole, NULL, NULL, 0);
    unlock();
    return result;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags)
{
    char first[PATH_MAX], second[PATH_MAX];
    if (!active() || !ours(absolute(to_at, to, second))) return syscall(SYS_linkat, from_at, from, to_at, to, flags);
    absolute(from_at, from, first);
    lock();
    int result = syscall(SYS_linkat, from_at, from, to_at, to, flags);
    if (!result && !ours(first)) refuse("link across the directory's edge");
    else if (!result) record((struct header){.op = LINK}, first, second, NULL, 0);
    unlock();
    return result;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *target, int at, const char *path)
{
    char whole[PATH_MAX];
    int result = syscall(SYS_symlinkat, target, at, path);
    if (!result && active() && ours(absolute(at, path, whole))) {
        lock();
        refuse("symlink");
        unlock();
    }
    return result;
}

int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }
