/* The floors: what a POST costs that knows nothing of HTTP, in a loop.
 *
 * usage: floor ADDRESS PORT COUNTERS SLOT ASLEEP MODE REQUEST
 *
 * MODE "whole" times socket, connect, send, shutdown and close. MODE "open" times send() alone, on a connection that was
 * opened before: the kernel's part of what nobody who sends a request can avoid, the receiver's wake-up included.
 *
 * REQUEST is sent as it is, but for its first "##########", which becomes the number of the post. It speaks the
 * protocol of worker.py: a line "block FIRST POSTS LIMIT_NS" on standard input is answered by one line of JSON, and
 * "settle" by null. It ends with its standard input, and on Linux with its parent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#define MARK "##########"
#define MARK_SIZE 10
/* As in worker.py. */
#define PACE_NS 250000000u
#define REST_NS 50000u

struct lane {
    const struct addrinfo *to;
    char *request, *mark;
    size_t size;
    int open_ahead;          /* MODE is "open" */
    int fd;                  /* ... and this the connection, or minus errno */
    const uint64_t *settled; /* posts accounted for; NULL: the user's own endpoint, paced by the parent */
    const uint64_t *asleep;  /* odd while the receiver sleeps */
    uint64_t made;           /* posts that the receiver is to account for */
};

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Returns a connected socket, or minus errno. */
static int open_connection(const struct addrinfo *to)
{
    int fd = socket(to->ai_family, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd < 0 ? -errno : fd;
}

/* Returns 0 or errno. */
static int send_all(int fd, const char *request, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, request, size, 0);
        if (sent < 0)
            return errno;
        request += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static void end_connection(int fd)
{
    shutdown(fd, SHUT_WR);
    close(fd);
}

/* What is timed; returns 0 or errno. */
static int post(const struct lane *lane)
{
    if (lane->open_ahead)
        return lane->fd < 0 ? -lane->fd : send_all(lane->fd, lane->request, lane->size);
    int fd = open_connection(lane->to);
    if (fd < 0)
        return -fd;
    int error = send_all(fd, lane->request, lane->size);
    if (error)
        close(fd);
    else
        end_connection(fd);
    return error;
}

/* Waits until one more post is accounted for; returns 0 if it was not within PACE_NS. */
static int is_settled(struct lane *lane)
{
    uint64_t limit = read_clock(CLOCK_MONOTONIC) + PACE_NS;
    lane->made++;
    while (__atomic_load_n(lane->settled, __ATOMIC_ACQUIRE) < lane->made) {
        if (read_clock(CLOCK_MONOTONIC) > limit) {
            lane->made--;
            return 0;
        }
        sched_yield();
    }
    return 1;
}

/* Waits until the receiver has slept for REST_NS on end, for PACE_NS at most. */
static void rest(const struct lane *lane)
{
    uint64_t start = read_clock(CLOCK_MONOTONIC), since = start, now = start;
    uint64_t seen = __atomic_load_n(lane->asleep, __ATOMIC_ACQUIRE);
    while (now < since + REST_NS && now < start + PACE_NS) {
        sched_yield();
        uint64_t state = __atomic_load_n(lane->asleep, __ATOMIC_ACQUIRE);
        now = read_clock(CLOCK_MONOTONIC);
        if (state != seen || state % 2 == 0) {
            since = now;
            seen = state;
        }
    }
}

static void prepare(struct lane *lane, uint64_t number)
{
    char digits[24]; /* room for any 64-bit number, which the compiler wants to see */
    snprintf(digits, sizeof digits, "%0*llu", MARK_SIZE, (unsigned long long)number);
    if (lane->mark)
        memcpy(lane->mark, digits, MARK_SIZE);
    if (lane->open_ahead)
        lane->fd = open_connection(lane->to);
    if (lane->asleep)
        rest(lane);
}

static void print_list(const char *name, const uint64_t *values, size_t size)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; i < size; i++)
        printf("%s%llu", i ? ", " : "", (unsigned long long)values[i]);
    printf("], ");
}

static void print_errors(const int *errors, size_t size)
{
    const char *comma = "";
    printf("\"errors\": {");
    for (size_t i = 0; i < size; i++)
        if (errors[i]) {
            printf("%s\"%zu\": \"%s\"", comma, i, strerror(errors[i]));
            comma = ", ";
        }
    printf("}");
}

/* Makes a block of posts and prints what came of them; returns 0 for want of memory. */
static int block(struct lane *lane, uint64_t first, size_t posts, uint64_t limit_ns)
{
    uint64_t *ns = calloc(posts, sizeof *ns), *cpu_ns = calloc(posts, sizeof *cpu_ns);
    int *errors = calloc(posts, sizeof *errors);
    if (!ns || !cpu_ns || !errors)
        return 0;
    size_t i = 0, unpaced = 0;
    uint64_t end = read_clock(CLOCK_MONOTONIC) + limit_ns;
    while (i < posts && (i == 0 || read_clock(CLOCK_MONOTONIC) < end)) {
        prepare(lane, first + i);
        uint64_t cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID), start = read_clock(CLOCK_MONOTONIC);
        errors[i] = post(lane);
        ns[i] = read_clock(CLOCK_MONOTONIC) - start;
        cpu_ns[i] = read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        i++;
        if (lane->settled)
            unpaced += !is_settled(lane);
        if (lane->open_ahead && lane->fd >= 0)
            end_connection(lane->fd);
    }
    printf("{\"first\": %llu, \"unpaced\": %zu, \"claims\": [], \"aside_ns\": [], ", (unsigned long long)first, unpaced);
    print_list("ns", ns, i);
    print_list("cpu_ns", cpu_ns, i);
    print_errors(errors, i);
    puts("}");
    free(ns);
    free(cpu_ns);
    free(errors);
    return 1;
}

/* Maps the counters; returns 0 when that fails. */
static int map_counters(struct lane *lane, const char *path, size_t slot, size_t asleep)
{
    int fd = open(path, O_RDONLY);
    uint64_t *map = mmap(NULL, ((slot > asleep ? slot : asleep) + 1) * sizeof *map, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || map == MAP_FAILED)
        return 0;
    close(fd);
    lane->settled = map + slot;
    lane->asleep = map + asleep;
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 8)
        return 2;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *to;
    if (getaddrinfo(argv[1], argv[2], &hints, &to))
        return 2;
    struct lane lane = {
        .to = to,
        .request = argv[7],
        .mark = strstr(argv[7], MARK),
        .size = strlen(argv[7]),
        .open_ahead = !strcmp(argv[6], "open"),
    };
    if (*argv[3] && !map_counters(&lane, argv[3], strtoul(argv[4], NULL, 10), strtoul(argv[5], NULL, 10)))
        return 2;
    signal(SIGPIPE, SIG_IGN);
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    puts("ready");
    fflush(stdout);

    char order[16];
    unsigned long long first, posts, limit_ns;
    while (scanf(" %15s", order) == 1) {
        if (strcmp(order, "block"))
            puts("null");
        else if (scanf(" %llu %llu %llu", &first, &posts, &limit_ns) != 3 || !block(&lane, first, posts, limit_ns))
            return 1;
        fflush(stdout);
    }
    return 0;
}
