/* Makes syncs do nothing in the processes it is preloaded into, to measure what they cost. For measuring only. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

int syncfs(int descriptor) {
    (void)descriptor;
    return 0;
}

int sync_file_range(int descriptor, off64_t offset, off64_t length, unsigned flags) {
    (void)descriptor, (void)offset, (void)length, (void)flags;
    return 0;
}

/* Asynchronous writes are submitted by number: they lose their RWF_DSYNC. */
long syscall(long number, ...) {
    static long (*next)(long, ...);
    long values[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        values[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_io_submit) {
        struct iocb **blocks = (struct iocb **)values[2];
        for (long i = 0; i < values[1]; i++)
            blocks[i]->aio_rw_flags &= ~RWF_DSYNC;
    }
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return next(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}
