/* Makes one in ENTER_FAULTS_ONE_IN calls of io_uring_enter fail with EAGAIN or ENOMEM by turns, before the kernel has
 * seen it, as it does when it has no memory for a request. Loaded with LD_PRELOAD; everything that enters a ring here
 * does so by libc's syscall(). Which calls fail is drawn from ENTER_FAULTS_SEED. ENTER_FAULTS_COUNTS names a file of 16
 * bytes, where the calls and those that failed are counted, so that a test knows that there were some.
 *
 * No headers: a compiler is all that this needs.
 */
typedef unsigned long word;

extern void *dlsym(void *, const char *);
extern char *getenv(const char *);
extern word strtoul(const char *, char **, int);
extern int open(const char *, int, ...);
extern int close(int);
extern void *mmap(void *, word, int, int, int, long);
extern int *__errno_location(void);

#define RTLD_NEXT ((void *)-1)
#define SYS_io_uring_enter 426
#define EAGAIN 11
#define ENOMEM 12
#define O_RDWR_CLOEXEC 02000002
#define PROT_READ_WRITE 3
#define MAP_SHARED 1
#define MAP_FAILED ((void *)-1)

typedef long call(long, word, word, word, word, word, word);

static call *next;
static word one_in, seed, drawn, ignored[2];
static word *counts = ignored;

static word number(const char *name) {
    const char *value = getenv(name);
    return value ? strtoul(value, 0, 10) : 0;
}

__attribute__((constructor)) static void set_up(void) {
    const char *file = getenv("ENTER_FAULTS_COUNTS");
    int fd = file ? open(file, O_RDWR_CLOEXEC) : -1;
    next = (call *)dlsym(RTLD_NEXT, "syscall");
    seed = number("ENTER_FAULTS_SEED");
    if (fd >= 0) {
        void *shared = mmap(0, sizeof ignored, PROT_READ_WRITE, MAP_SHARED, fd, 0);
        if (shared != MAP_FAILED) counts = shared;
        close(fd);
    }
    one_in = number("ENTER_FAULTS_ONE_IN");
}

/* SplitMix64 of the call's number: threads draw from one sequence without a lock. */
static word draw(word at) {
    word z = seed + at * 0x9e3779b97f4a7c15ul;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ul;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebul;
    return z ^ (z >> 31);
}

long syscall(long number, word a, word b, word c, word d, word e, word f) {
    if (!next) next = (call *)dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_io_uring_enter && one_in) {
        __atomic_fetch_add(&counts[0], 1, __ATOMIC_RELAXED);
        if (draw(__atomic_add_fetch(&drawn, 1, __ATOMIC_RELAXED)) % one_in == 0) {
            word failed = __atomic_fetch_add(&counts[1], 1, __ATOMIC_RELAXED);
            *__errno_location() = failed % 2 ? ENOMEM : EAGAIN;
            return -1;
        }
    }
    return next(number, a, b, c, d, e, f);
}
