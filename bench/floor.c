/* The floors: what a POST costs that knows nothing of HTTP, in a loop.
 *
 * usage: floor ADDRESS PORT COUNTERS SLOT ASLEEP MODE BURST REQUEST
 *
 * MODE "whole" times socket, connect, send, shutdown and close. MODE "open" times send() alone, on a connection that was
 * opened before: the kernel's part of what nobody who sends a request can avoid, the receiver's wake-up included where
 * it sleeps. BURST posts are made back to back.
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
    size_t size, burst;
    int *ahead;              /* MODE is "open": the connections of one burst, or minus errno; NULL: it is "whole" */
    const uint64_t *settled; /* posts accounted for; NULL: the user's own endpoint, paced by the parent */
    const uint64_t *asleep;  /* odd while the receiver sleeps */
    uint64_t made;           /* posts that the receiver is to account for */
};

struct notes { /* one entry per post */
    uint64_t *ns, *cpu_ns;
    int *errors;
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

/* What is timed, the nth of its burst; returns 0 or errno. */
static int post(const struct lane *lane, size_t nth)
{
    if (lane->ahead)
        return lane->ahead[nth] < 0 ? -lane->ahead[nth] : send_all(lane->ahead[nth], lane->request, lane->size);
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

/* Waits until so many more posts are accounted for; returns how many were not within PACE_NS. */
static uint64_t unsettled(struct lane *lane, size_t posts)
{
    uint64_t limit = read_clock(CLOCK_MONOTONIC) + PACE_NS, settled;
    lane->made += posts;
    while ((settled = __atomic_load_n(lane->settled, __ATOMIC_ACQUIRE)) < lane->made) {
        if (read_clock(CLOCK_MONOTONIC) > limit) {
            uint64_t missing = lane->made - settled;
            lane->made = settled;
            return missing;
        }
        sched_yield();
    }
    return 0;
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

static void write_number(const struct lane *lane, uint64_t number)
{
    char digits[24]; /* room for any 64-bit number, which the compiler wants to see */
    snprintf(digits, sizeof digits, "%0*llu", MARK_SIZE, (unsigned long long)number);
    if (lane->mark)
        memcpy(lane->mark, digits, MARK_SIZE);
}

/* Makes posts back to back; returns how many the receiver did not account for in time. */
static uint64_t burst(struct lane *lane, uint64_t first, size_t posts, struct notes notes)
{
    if (lane->ahead)
        for (size_t i = 0; i < posts; i++)
            lane->ahead[i] = open_connection(lane->to);
    if (lane->asleep)
        rest(lane);
    for (size_t i = 0; i < posts; i++) {
        write_number(lane, first + i);
        uint64_t cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID), start = read_clock(CLOCK_MONOTONIC);
        notes.errors[i] = post(lane, i);
        notes.ns[i] = read_clock(CLOCK_MONOTONIC) - start;
        notes.cpu_ns[i] = read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    }
    uint64_t missing = lane->settled ? unsettled(lane, posts) : 0;
    if (lane->ahead)
        for (size_t i = 0; i < posts; i++)
            if (lane->ahead[i] >= 0)
                end_connection(lane->ahead[i]);
    return missing;
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
    struct notes all = {
        calloc(posts, sizeof *all.ns), calloc(posts, sizeof *all.cpu_ns), calloc(posts, sizeof *all.errors)
    };
    if (!all.ns || !all.cpu_ns || !all.errors)
        return 0;
    size_t made = 0;
    uint64_t unpaced = 0, end = read_clock(CLOCK_MONOTONIC) + limit_ns;
    while (made < posts && (made == 0 || read_clock(CLOCK_MONOTONIC) < end)) {
        size_t now = posts - made < lane->burst ? posts - made : lane->burst;
        struct notes notes = {all.ns + made, all.cpu_ns + made, all.errors + made};
        unpaced += burst(lane, first + made, now, notes);
        made += now;
    }
    printf("{\"first\": %llu, \"unpaced\": %llu, ", (unsigned long long)first, (unsigned long long)unpaced);
    printf("\"claims\": [], \"aside_ns\": [], \"ready_ns\": [], ");
    print_list("ns", all.ns, made);
    print_list("cpu_ns", all.cpu_ns, made);
    print_errors(all.errors, made);
    puts("}");
    free(all.ns);
    free(all.cpu_ns);
    free(all.errors);
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
    if (argc != 9)
        return 2;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *to;
    if (getaddrinfo(argv[1], argv[2], &hints, &to))
        return 2;
    struct lane lane = {
        .to = to,
        .request = argv[8],
        .mark = strstr(argv[8], MARK),
        .size = strlen(argv[8]),
        .burst = strtoul(argv[7], NULL, 10),
    };
    if (!strcmp(argv[6], "open") && !(lane.ahead = calloc(lane.burst, sizeof *lane.ahead)))
        return 2;
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
