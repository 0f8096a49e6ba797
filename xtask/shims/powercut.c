/* Journals what a program does to the files under POWERCUT_DIR, so that the
 * state of the disk after a power cut at any moment can be worked out later
 * (xtask/src/powercut.rs reads the journal and does so).
 *
 * Recorded into POWERCUT_LOG, in the order of their effect: file creations,
 * writes with their data, changes of length, renames, links, removals, the
 * beginning and the successful end of every fsync and fdatasync of a file or a
 * directory, and acknowledgements: an HTTP/1.1 answer with a 2xx status, by its
 * x-request-id, recorded before it is handed to the socket.
 *
 * Not recorded: files named *-shm (SQLite maps them and makes them anew),
 * files that have no name any more, memory maps, sync, syncfs, sync_file_range
 * and O_SYNC. Leaving a sync out can only make the replay lose more than a
 * disk would. Copies inside the kernel are refused with ENOSYS, upon which
 * programs copy by reading and writing.
 *
 * A write and its record happen under one lock, so the order in the journal is
 * the order of effect; a sync is not held under it, and covers what stands
 * before its beginning. The kernel is called directly, which works before our
 * constructor has run and needs no next library. Several processes may append
 * to one journal, one after the other. */
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
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum op {
    OP_START = 1,
    OP_OPEN,
    OP_CREATE,
    OP_WRITE,
    OP_TRUNCATE,
    OP_ALLOCATE,
    OP_RENAME,
    OP_LINK,
    OP_UNLINK,
    OP_MKDIR,
    OP_RMDIR,
    OP_SYNC_BEGIN,
    OP_SYNC_END,
    OP_DIR_SYNC_BEGIN,
    OP_DIR_SYNC_END,
    OP_ACK,
};

/* Followed by the path, the other path and the data. Little-endian. */
struct record {
    uint32_t magic;
    uint32_t op;
    uint64_t inode;
    uint64_t offset; /* of a write; the length of a truncation; the number of a sync */
    uint64_t length; /* of an allocation */
    uint32_t path_length;
    uint32_t other_length;
    uint64_t data_length;
} __attribute__((packed));

#define MAGIC 0x54554350u /* "PCUT" */
#define HEAD_BYTES_MAX (64 * 1024)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int journal = -1;
static uint64_t syncs;

static void record(enum op op, uint64_t inode, uint64_t offset, uint64_t length, const char *path,
                   const char *other, const struct iovec *parts, int count, size_t bytes) {
    struct record head = {
        .magic = MAGIC,
        .op = op,
        .inode = inode,
        .offset = offset,
        .length = length,
        .path_length = (uint32_t)strlen(path),
        .other_length = (uint32_t)strlen(other),
        .data_length = bytes,
    };
    struct iovec all[3 + IOV_MAX];
    int used = 0;
    all[used++] = (struct iovec){&head, sizeof head};
    all[used++] = (struct iovec){(void *)path, head.path_length};
    all[used++] = (struct iovec){(void *)other, head.other_length};
    size_t left = bytes, total = sizeof head + head.path_length + head.other_length + bytes;
    for (int i = 0; i < count && left > 0 && used < IOV_MAX; i++) {
        size_t part = parts[i].iov_len < left ? parts[i].iov_len : left;
        all[used++] = (struct iovec){parts[i].iov_base, part};
        left -= part;
    }
    ssize_t written = syscall(SYS_writev, journal, all, used);
    if (written < 0 || (size_t)written != total) {
        static const char text[] = "powercut: the journal cannot be written\n";
        syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
}

__attribute__((constructor)) static void start(void) {
    const char *dir = getenv("POWERCUT_DIR"), *log = getenv("POWERCUT_LOG");
    if (!dir || !log || !realpath(dir, root)) {
        return;
    }
    journal = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0) {
        static const char text[] = "powercut: POWERCUT_LOG cannot be opened\n";
        syscall(SYS_write, 2, text, sizeof text - 1);
        abort();
    }
    /* Servers close what they did not open only in the low numbers. */
    int high = fcntl(journal, F_DUPFD_CLOEXEC, 900);
    if (high >= 0) {
        close(journal);
        journal = high;
    }
    root_length = strlen(root);
    record(OP_START, (uint64_t)getpid(), 0, 0, "", "", NULL, 0, 0);
}

/* The part of an absolute path below the root, "" for the root itself, or
 * NULL when it lies elsewhere or is not recorded. */
static const char *below_root(const char *path) {
    if (journal < 0 || strncmp(path, root, root_length) != 0) {
        return NULL;
    }
    const char *rest = path + root_length;
    if (*rest == 0) {
        return rest;
    }
    size_t length = strlen(rest);
    if (*rest != '/' || (length >= 4 && strcmp(rest + length - 4, "-shm") == 0)) {
        return NULL;
    }
    return rest + 1;
}

/* The path of an open file below the root, in `space`, or NULL. */
static const char *path_of(int fd, char space[PATH_MAX]) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, space, PATH_MAX - 1);
    if (length <= 0) {
        return NULL;
    }
    space[length] = 0;
    return below_root(space);
}

/* The path below the root that a name means, whose last part need not exist;
 * in `space`, or NULL. */
static const char *path_named(int at, const char *name, char space[PATH_MAX]) {
    char parent[PATH_MAX], resolved[PATH_MAX];
    if (journal < 0 || strlen(name) >= sizeof parent) {
        return NULL;
    }
    if (name[0] != '/' && at != AT_FDCWD) {
        char link[40];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, parent, sizeof parent - 1);
        if (length <= 0 || (size_t)length + strlen(name) + 2 > sizeof parent) {
            return NULL;
        }
        parent[length] = '/';
        strcpy(parent + length + 1, name);
    } else {
        strcpy(parent, name);
    }
    for (size_t end = strlen(parent); end > 1 && parent[end - 1] == '/'; end--) {
        parent[end - 1] = 0;
    }
    char *slash = strrchr(parent, '/');
    const char *last = slash ? slash + 1 : parent;
    const char *dir = !slash ? "." : slash == parent ? "/" : (*slash = 0, parent);
    if (!realpath(dir, resolved) || strlen(resolved) + strlen(last) + 2 > PATH_MAX) {
        return NULL;
    }
    /* A copy in parts, because the compiler cannot see that it fits. */
    size_t length = strlen(resolved);
    memcpy(space, resolved, length);
    space[length] = '/';
    strcpy(space + length + 1, last);
    return below_root(space);
}

/* Whether an open file is one that is recorded; fills its path and state. */
static const char *recorded(int fd, char space[PATH_MAX], struct stat *state) {
    if (journal < 0) {
        return NULL;
    }
    int kept = errno;
    const char *path = NULL;
    if (fstat(fd, state) == 0 && S_ISREG(state->st_mode) && state->st_nlink > 0) {
        path = path_of(fd, space);
    }
    errno = kept;
    return path;
}

/* ---- files ---- */

static int open_any(int at, const char *name, int flags, mode_t mode) {
    int writing = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    if (journal < 0 || !writing || (flags & O_TMPFILE) == O_TMPFILE) {
        return (int)syscall(SYS_openat, at, name, flags, mode);
    }
    pthread_mutex_lock(&lock);
    int kept = errno;
    struct stat before;
    int existed = fstatat(at, name, &before, 0) == 0;
    errno = kept;
    int fd = (int)syscall(SYS_openat, at, name, flags, mode);
    kept = errno;
    if (fd >= 0) {
        char space[PATH_MAX];
        struct stat state;
        const char *path = recorded(fd, space, &state);
        if (path) {
            record(existed ? OP_OPEN : OP_CREATE, state.st_ino, 0, 0, path, "", NULL, 0, 0);
            if (existed && (flags & O_TRUNC) && before.st_size > 0) {
                record(OP_TRUNCATE, state.st_ino, 0, 0, path, "", NULL, 0, 0);
            }
        }
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE_OF(flags)                                        \
    mode_t mode = 0;                                          \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        mode = va_arg(rest, mode_t);                          \
        va_end(rest);                                         \
    }

int open(const char *name, int flags, ...) {
    MODE_OF(flags)
    return open_any(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE_OF(flags)
    return open_any(AT_FDCWD, name, flags, mode);
}

int openat(int at, const char *name, int flags, ...) {
    MODE_OF(flags)
    return open_any(at, name, flags, mode);
}

int openat64(int at, const char *name, int flags, ...) {
    MODE_OF(flags)
    return open_any(at, name, flags, mode);
}

int creat(const char *name, mode_t mode) {
    return open_any(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *name, mode_t mode) {
    return creat(name, mode);
}

/* ---- acknowledgements ---- */

static void record_acks(const struct iovec *parts, int count) {
    static const char begin[] = "HTTP/1.1 2", field[] = "x-request-id:";
    if (journal < 0 || count < 1 || parts[0].iov_len < sizeof begin - 1 ||
        memcmp(parts[0].iov_base, begin, sizeof begin - 1) != 0) {
        return;
    }
    pthread_mutex_lock(&lock);
    static char head[HEAD_BYTES_MAX];
    size_t length = 0;
    for (int i = 0; i < count && length < sizeof head; i++) {
        size_t part = parts[i].iov_len < sizeof head - length ? parts[i].iov_len : sizeof head - length;
        memcpy(head + length, parts[i].iov_base, part);
        length += part;
    }
    /* Pipelined answers may leave together. */
    char *at = head, *end = head + length;
    while (at && at < end) {
        char *next = memmem(at + 1, (size_t)(end - at - 1), begin, sizeof begin - 1);
        char *stop = next ? next : end;
        char *body = memmem(at, (size_t)(stop - at), "\r\n\r\n", 4);
        char *head_end = body ? body : stop;
        for (char *line = memmem(at, (size_t)(head_end - at), "\r\n", 2); line;
             line = memmem(line + 2, (size_t)(head_end - line - 2), "\r\n", 2)) {
            char *name = line + 2;
            if ((size_t)(head_end - name) < sizeof field ||
                strncasecmp(name, field, sizeof field - 1) != 0) {
                continue;
            }
            char *value = name + sizeof field - 1;
            while (value < head_end && *value == ' ') {
                value++;
            }
            char *tail = memchr(value, '\r', (size_t)(head_end - value));
            struct iovec id = {value, (size_t)((tail ? tail : head_end) - value)};
            record(OP_ACK, 0, (uint64_t)strtoul(at + 9, NULL, 10), 0, "", "", &id, 1, id.iov_len);
        }
        at = next;
    }
    pthread_mutex_unlock(&lock);
}

static int is_socket(int fd) {
    struct stat state;
    int kept = errno;
    int socket = fstat(fd, &state) == 0 && S_ISSOCK(state.st_mode);
    errno = kept;
    return socket;
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    struct iovec part = {(void *)data, length};
    record_acks(&part, 1);
    return syscall(SYS_sendto, fd, data, length, flags, NULL, 0);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to,
               socklen_t to_length) {
    struct iovec part = {(void *)data, length};
    record_acks(&part, 1);
    return syscall(SYS_sendto, fd, data, length, flags, to, to_length);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    record_acks(message->msg_iov, (int)message->msg_iovlen);
    return syscall(SYS_sendmsg, fd, message, flags);
}

/* ---- writes ---- */

/* Writes parts at an offset, or where the file stands when it is negative. */
static ssize_t write_any(int fd, const struct iovec *parts, int count, off_t offset) {
    char space[PATH_MAX];
    struct stat state;
    const char *path = recorded(fd, space, &state);
    if (!path) {
        if (journal >= 0 && offset < 0 && is_socket(fd)) {
            record_acks(parts, count);
        }
        return offset < 0 ? syscall(SYS_writev, fd, parts, count)
                          : syscall(SYS_pwritev, fd, parts, count, offset, 0L);
    }
    pthread_mutex_lock(&lock);
    off_t at = offset;
    if (offset < 0) {
        int flags = fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & O_APPEND)) {
            at = fstat(fd, &state) == 0 ? state.st_size : 0;
        } else {
            at = lseek(fd, 0, SEEK_CUR);
        }
    }
    ssize_t written = offset < 0 ? syscall(SYS_writev, fd, parts, count)
                                 : syscall(SYS_pwritev, fd, parts, count, offset, 0L);
    int kept = errno;
    if (written > 0) {
        record(OP_WRITE, state.st_ino, (uint64_t)at, 0, path, "", parts, count, (size_t)written);
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t write(int fd, const void *data, size_t length) {
    struct iovec part = {(void *)data, length};
    return write_any(fd, &part, 1, -1);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return write_any(fd, parts, count, -1);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    struct iovec part = {(void *)data, length};
    if (offset < 0) {
        errno = EINVAL;
        return -1;
    }
    return write_any(fd, &part, 1, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) {
    return pwrite(fd, data, length, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    if (offset < 0) {
        errno = EINVAL;
        return -1;
    }
    return write_any(fd, parts, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev(fd, parts, count, offset);
}

int ftruncate(int fd, off_t length) {
    char space[PATH_MAX];
    struct stat state;
    const char *path = recorded(fd, space, &state);
    if (!path) {
        return (int)syscall(SYS_ftruncate, fd, length);
    }
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_ftruncate, fd, length);
    int kept = errno;
    if (result == 0) {
        record(OP_TRUNCATE, state.st_ino, (uint64_t)length, 0, path, "", NULL, 0, 0);
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off_t length) {
    return ftruncate(fd, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    char space[PATH_MAX];
    struct stat state;
    const char *path = recorded(fd, space, &state);
    if (path && mode != 0) {
        /* Holes and kept sizes are not modelled. */
        errno = EOPNOTSUPP;
        return -1;
    }
    if (!path) {
        return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    }
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_fallocate, fd, 0, offset, length);
    int kept = errno;
    if (result == 0) {
        record(OP_ALLOCATE, state.st_ino, (uint64_t)offset, (uint64_t)length, path, "", NULL, 0, 0);
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return result;
}

int fallocate64(int fd, int mode, off_t offset, off_t length) {
    return fallocate(fd, mode, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) {
    int kept = errno;
    int error = fallocate(fd, 0, offset, length) == 0 ? 0 : errno;
    errno = kept;
    return error;
}

int posix_fallocate64(int fd, off_t offset, off_t length) {
    return posix_fallocate(fd, offset, length);
}

ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t length,
                        unsigned int flags) {
    char space[PATH_MAX];
    struct stat state;
    if (recorded(to, space, &state)) {
        errno = ENOSYS;
        return -1;
    }
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, length, flags);
}

ssize_t sendfile(int to, int from, off_t *from_at, size_t length) {
    char space[PATH_MAX];
    struct stat state;
    if (recorded(to, space, &state)) {
        errno = ENOSYS;
        return -1;
    }
    return syscall(SYS_sendfile, to, from, from_at, length);
}

ssize_t sendfile64(int to, int from, off_t *from_at, size_t length) {
    return sendfile(to, from, from_at, length);
}

/* ---- syncs ---- */

static int sync_any(int fd, long call) {
    struct stat state;
    char space[PATH_MAX];
    const char *path = NULL;
    int directory = 0;
    if (journal >= 0 && fstat(fd, &state) == 0) {
        directory = S_ISDIR(state.st_mode);
        path = directory ? path_of(fd, space) : recorded(fd, space, &state);
    }
    if (!path) {
        return (int)syscall(call, fd);
    }
    pthread_mutex_lock(&lock);
    uint64_t number = ++syncs;
    record(directory ? OP_DIR_SYNC_BEGIN : OP_SYNC_BEGIN, state.st_ino, number, 0, path, "", NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    int result = (int)syscall(call, fd);
    int kept = errno;
    if (result == 0) {
        pthread_mutex_lock(&lock);
        record(directory ? OP_DIR_SYNC_END : OP_SYNC_END, state.st_ino, number, 0, path, "", NULL, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = kept;
    return result;
}

int fsync(int fd) {
    return sync_any(fd, SYS_fsync);
}

int fdatasync(int fd) {
    return sync_any(fd, SYS_fdatasync);
}

/* ---- names ---- */

static int rename_any(int from_at, const char *from, int to_at, const char *to, unsigned int flags) {
    char from_space[PATH_MAX], to_space[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *from_path = path_named(from_at, from, from_space);
    const char *to_path = path_named(to_at, to, to_space);
    int result = (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    int kept = errno;
    if (result == 0 && (from_path || to_path)) {
        struct stat state;
        uint64_t inode = fstatat(to_at, to, &state, AT_SYMLINK_NOFOLLOW) == 0 ? state.st_ino : 0;
        record(OP_RENAME, inode, 0, 0, from_path ? from_path : "", to_path ? to_path : "", NULL, 0, 0);
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    return rename_any(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
    return rename_any(from_at, from, to_at, to, 0);
}

int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned int flags) {
    return rename_any(from_at, from, to_at, to, flags);
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    char from_space[PATH_MAX], to_space[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *from_path = path_named(from_at, from, from_space);
    const char *to_path = path_named(to_at, to, to_space);
    int result = (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
    int kept = errno;
    if (result == 0 && to_path) {
        struct stat state;
        uint64_t inode = fstatat(to_at, to, &state, AT_SYMLINK_NOFOLLOW) == 0 ? state.st_ino : 0;
        record(OP_LINK, inode, 0, 0, from_path ? from_path : "", to_path, NULL, 0, 0);
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return result;
}

int link(const char *from, const char *to) {
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int at, const char *name, int flags) {
    char space[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *path = path_named(at, name, space);
    int result = (int)syscall(SYS_unlinkat, at, name, flags);
    int kept = errno;
    if (result == 0 && path) {
        record(flags & AT_REMOVEDIR ? OP_RMDIR : OP_UNLINK, 0, 0, 0, path, "", NULL, 0, 0);
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *name) {
    return unlinkat(AT_FDCWD, name, 0);
}

int rmdir(const char *name) {
    return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}

int remove(const char *name) {
    int result = unlinkat(AT_FDCWD, name, 0);
    return result != 0 && errno == EISDIR ? rmdir(name) : result;
}

int mkdirat(int at, const char *name, mode_t mode) {
    char space[PATH_MAX];
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_mkdirat, at, name, mode);
    int kept = errno;
    const char *path = result == 0 ? path_named(at, name, space) : NULL;
    if (path) {
        record(OP_MKDIR, 0, 0, 0, path, "", NULL, 0, 0);
    }
    errno = kept;
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *name, mode_t mode) {
    return mkdirat(AT_FDCWD, name, mode);
}
