/* Makes every fsync and fdatasync take at least SLOWSYNC_MS milliseconds
 * longer, as a disk would that has no fast cache. Preload it; it promises
 * nothing about msync or O_SYNC, which Agentry's stores do not use. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct timespec delay;

__attribute__((constructor)) static void start(void) {
    const char *text = getenv("SLOWSYNC_MS");
    double ms = text ? strtod(text, NULL) : 0;
    if (ms > 0) {
        delay.tv_sec = (time_t)(ms / 1000);
        delay.tv_nsec = (long)((ms - (double)delay.tv_sec * 1000) * 1e6);
    }
}

static void wait_for_the_disk(void) {
    int kept = errno;
    struct timespec left = delay;
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    errno = kept;
}

int fsync(int fd) {
    int result = (int)syscall(SYS_fsync, fd);
    wait_for_the_disk();
    return result;
}

int fdatasync(int fd) {
    int result = (int)syscall(SYS_fdatasync, fd);
    wait_for_the_disk();
    return result;
}
