/* The floor: what a POST costs that knows nothing of HTTP. Socket, connect, sendall, shutdown, close, in a loop.
 *
 * usage: floor ADDRESS PORT COUNTERS SLOT REQUEST
 *
 * REQUEST is sent as it is, but for its first "##########", which becomes the number of the post. It speaks the
 * protocol of worker.py: a line "block FIRST POSTS LIMIT_NS" on standard input is answered by one line of JSON. It ends
 * with its standard input, and on Linux with its parent.
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

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* One post; returns 0 or errno. */
static int post(const struct addrinfo *to, const char *request, size_t size)
{
    int fd = socket(to->ai_family, SOCK_STREAM, 0);
    if (fd < 0)
        return errno;
    int error = connect(fd, to->ai_addr, to->ai_addrlen) < 0 ? errno : 0;
    for (size_t done = 0; !error && done < size;) {
        ssize_t sent = send(fd, request + done, size - done, 0);
        if (sent < 0)
            error = errno;
        else
            done += (size_t)sent;
    }
    if (!error)
        shutdown(fd, SHUT_WR);
    close(fd);
    return error;
}

/* Waits until the receiver has accounted for `posts` posts and sleeps; returns 0 if it has not within PACE_NS. */
static int pace(const uint64_t *settled, uint64_t posts)
{
    uint64_t limit = read_clock(CLOCK_MONOTONIC) + PACE_NS;
    while (__atomic_load_n(settled, __ATOMIC_ACQUIRE) < posts) {
        if (read_clock(CLOCK_MONOTONIC) > limit)
            return 0;
        sched_yield();
    }
    uint64_t rested = read_clock(CLOCK_MONOTONIC) + REST_NS;
    while (read_clock(CLOCK_MONOTONIC) < rested)
        sched_yield();
    return 1;
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

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *to;
    if (getaddrinfo(argv[1], argv[2], &hints, &to))
        return 2;
    const uint64_t *settled = NULL; /* without counters: the user's own endpoint, paced by the parent */
    if (*argv[3]) {
        int fd = open(argv[3], O_RDONLY);
        size_t slot = strtoul(argv[4], NULL, 10);
        uint64_t *map = mmap(NULL, (slot + 1) * sizeof *map, PROT_READ, MAP_SHARED, fd, 0);
        if (fd < 0 || map == MAP_FAILED)
            return 2;
        close(fd);
        settled = map + slot;
    }
    char *request = argv[5], *mark = strstr(request, MARK);
    size_t size = strlen(request);
    signal(SIGPIPE, SIG_IGN);
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    puts("ready");
    fflush(stdout);

    unsigned long long first, posts, limit_ns;
    uint64_t made = 0; /* posts that the receiver is to account for */
    while (scanf(" block %llu %llu %llu", &first, &posts, &limit_ns) == 3) {
        uint64_t *ns = calloc(posts, sizeof *ns), *cpu_ns = calloc(posts, sizeof *cpu_ns);
        int *errors = calloc(posts, sizeof *errors);
        if (!ns || !cpu_ns || !errors)
            return 1;
        size_t i = 0, unpaced = 0;
        uint64_t end = read_clock(CLOCK_MONOTONIC) + limit_ns;
        while (i < posts && (i == 0 || read_clock(CLOCK_MONOTONIC) < end)) {
            char digits[24]; /* room for any 64-bit number, which the compiler wants to see */
            snprintf(digits, sizeof digits, "%0*llu", MARK_SIZE, first + i);
            if (mark)
                memcpy(mark, digits, MARK_SIZE);
            uint64_t cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID), start = read_clock(CLOCK_MONOTONIC);
            errors[i] = post(to, request, size);
            ns[i] = read_clock(CLOCK_MONOTONIC) - start;
            cpu_ns[i] = read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu;
            i++;
            if (settled && !pace(settled, ++made)) {
                made--;
                unpaced++;
            }
        }
        printf("{\"first\": %llu, \"unpaced\": %zu, \"claims\": [], ", first, unpaced);
        print_list("ns", ns, i);
        print_list("cpu_ns", cpu_ns, i);
        print_errors(errors, i);
        puts("}");
        fflush(stdout);
        free(ns);
        free(cpu_ns);
        free(errors);
    }
    return 0;
}
