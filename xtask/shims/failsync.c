/* Breaks the disk under a running program and heals it again. While the file
 * FAILSYNC_CONTROL has lines such as
 *
 *     fsync EIO
 *     write ENOSPC
 *
 * those calls fail with that error on files whose path lies under
 * FAILSYNC_DIR, and nothing is written. `fsync` stands for fsync and
 * fdatasync; `write` for write, pwrite, writev, pwritev, ftruncate growing a
 * file, and fallocate. An empty or missing file means a healthy disk. The
 * control file is read again at each such call, so a test need only rewrite
 * it (by rename, so that no half of it is seen).
 *
 * The kernel is called directly rather than through the next library: a call
 * before our constructor then works as well. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[4096];
static size_t root_length;
static const char *control;

__attribute__((constructor)) static void start(void) {
    control = getenv("FAILSYNC_CONTROL");
    const char *dir = getenv("FAILSYNC_DIR");
    if (dir && realpath(dir, root)) {
        root_length = strlen(root);
    }
}

static int under_root(int fd) {
    if (root_length == 0) {
        return 0;
    }
    char link[64], path[4096 + 16];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) {
        return 0;
    }
    path[length] = 0;
    return strncmp(path, root, root_length) == 0 && path[root_length] == '/';
}

static int error_named(const char *name) {
    if (strcmp(name, "EIO") == 0) return EIO;
    if (strcmp(name, "ENOSPC") == 0) return ENOSPC;
    if (strcmp(name, "EDQUOT") == 0) return EDQUOT;
    if (strcmp(name, "EROFS") == 0) return EROFS;
    return 0;
}

/* The error that the control file wants for a kind of call, or 0. */
static int wanted(const char *kind, int fd) {
    if (!control || !under_root(fd)) {
        return 0;
    }
    int kept = errno, found = 0;
    int file = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (file >= 0) {
        char text[1024];
        ssize_t length = read(file, text, sizeof text - 1);
        close(file);
        if (length > 0) {
            text[length] = 0;
            char *rest = NULL;
            for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
                char call[32], name[32];
                if (sscanf(line, "%31s %31s", call, name) == 2 && strcmp(call, kind) == 0) {
                    found = error_named(name);
                }
            }
        }
    }
    errno = kept;
    return found;
}

#define FAIL_IF_WANTED(kind, fd)      \
    do {                              \
        int error = wanted(kind, fd); \
        if (error) {                  \
            errno = error;            \
            return -1;                \
        }                             \
    } while (0)

int fsync(int fd) {
    FAIL_IF_WANTED("fsync", fd);
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    FAIL_IF_WANTED("fsync", fd);
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t write(int fd, const void *data, size_t length) {
    FAIL_IF_WANTED("write", fd);
    return syscall(SYS_write, fd, data, length);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) {
    FAIL_IF_WANTED("write", fd);
    return syscall(SYS_pwrite64, fd, data, length, at);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t at) {
    return pwrite(fd, data, length, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    FAIL_IF_WANTED("write", fd);
    return syscall(SYS_writev, fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    FAIL_IF_WANTED("write", fd);
    return syscall(SYS_pwritev, fd, parts, count, at, 0L);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    return pwritev(fd, parts, count, at);
}

int ftruncate(int fd, off_t length) {
    struct stat now;
    if (fstat(fd, &now) == 0 && length > now.st_size) {
        FAIL_IF_WANTED("write", fd);
    }
    return (int)syscall(SYS_ftruncate, fd, length);
}

int ftruncate64(int fd, off_t length) {
    return ftruncate(fd, length);
}

int fallocate(int fd, int mode, off_t at, off_t length) {
    FAIL_IF_WANTED("write", fd);
    return (int)syscall(SYS_fallocate, fd, mode, at, length);
}

int fallocate64(int fd, int mode, off_t at, off_t length) {
    return fallocate(fd, mode, at, length);
}

int posix_fallocate(int fd, off_t at, off_t length) {
    int error = wanted("write", fd);
    if (!error && syscall(SYS_fallocate, fd, 0, at, length) != 0) {
        error = errno;
    }
    return error;
}

int posix_fallocate64(int fd, off_t at, off_t length) {
    return posix_fallocate(fd, at, length);
}
