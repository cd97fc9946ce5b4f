/* A DICOM storage sender that is not the bottleneck: prepared PDUs, sent from memory with sendfile.
 *
 * sender --host H --port P --cargo DIR --body BYTES --command-uid AT --head-uid AT --uid-prefix TEXT
 *        [--associations N] [--count C] [--seconds S] [--pdu L] [--settle S] [--at-once N] [--mode stream|churn|idle]
 *        [--rate R] [--answers FILE]
 *
 * DIR holds `associate` (an A-ASSOCIATE-RQ PDU), `command` (a C-STORE-RQ command set), `head` (the data set up to
 * its pixel data) and `block` (the BLOCK bytes its pixel data repeats). Each instance gets its own SOP Instance UID,
 * written over the 24 digits at the two offsets. Sending begins when N associations are open (or S seconds have
 * passed), then "going" is printed; a JSON line at the end tells what happened. With a rate, instance i is sent no
 * earlier than i/R seconds after the beginning; FILE gets a line for each success: the 24 digits, and when the request
 * began and was answered, in seconds of CLOCK_REALTIME.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1022, PDU_HEADER = 6, PDV_HEADER = 6, LARGEST_ANSWER = 65536, UID_DIGITS = 24, PATIENCE = 60 };
enum { ASSOCIATE_AC = 2, ASSOCIATE_RJ = 3, P_DATA = 4, RELEASE_RP = 6 };
static const size_t REST_IN_MEMORY = 16 << 20;

struct bytes { uint8_t *at; size_t size; };

/* How the data set is cut into PDUs, which depends on the length the receiver advertises. */
struct framing {
    size_t fragment;    /* data set bytes in a full PDU */
    size_t first;       /* data set bytes in the first PDU: the head and the beginning of the body */
    size_t full, last;  /* full PDUs after the first, and bytes in the last one (0: the first is the last) */
    size_t repeated;    /* full PDUs that `rest` holds before the last one */
    int rest;           /* memory file */
};

static struct {
    struct sockaddr_in to;
    struct bytes associate, command, head, block;
    size_t body, command_uid, head_uid, pdu;
    const char *uid_prefix, *answers;
    double rate;
    int associations, at_once;
    long count;
    double seconds, settle;
    enum { STREAM, CHURN, IDLE } mode;
} plan;

static struct framing framing;
static pthread_once_t framed = PTHREAD_ONCE_INIT;
static size_t negotiated;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int settled;
static bool going;
static double began;
static atomic_long taken;

struct answer { long number; double start, end; };

struct worker {
    pthread_t thread;
    uint8_t *front;
    size_t front_size, front_uid;
    int socket;
    bool admitted;
    long stored, refused;
    int status;
    double last_answer, *latencies;
    struct answer *answers;
    const char *error;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

static struct bytes load(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    struct bytes loaded = {.size = (size_t)ftell(file)};
    rewind(file);
    loaded.at = malloc(loaded.size + 1);
    if (fread(loaded.at, 1, loaded.size, file) != loaded.size) die(path);
    fclose(file);
    return loaded;
}

static void put32(uint8_t *at, size_t value) {
    uint32_t encoded = htonl((uint32_t)value);
    memcpy(at, &encoded, 4);
}

static size_t get32(const uint8_t *at) {
    uint32_t encoded;
    memcpy(&encoded, at, 4);
    return ntohl(encoded);
}

static size_t pdu_header(uint8_t *at, size_t fragment, int flags) {
    at[0] = P_DATA;
    at[1] = 0;
    put32(at + 2, fragment + PDV_HEADER);
    put32(at + 6, fragment + 2);
    at[10] = 1;
    at[11] = (uint8_t)flags;
    return PDU_HEADER + PDV_HEADER;
}

/* The body repeats BLOCK, and a fragment is a multiple of BLOCK: so every full PDU after the first is the same. */
static void body_bytes(uint8_t *to, size_t from, size_t size) {
    for (size_t i = 0; i < size; i++) to[i] = plan.block.at[(from + i) % BLOCK];
}

static void frame(void) {
    size_t total = plan.head.size + plan.body;
    framing.fragment = (negotiated - PDV_HEADER) / BLOCK * BLOCK;
    framing.first = total < framing.fragment ? total : framing.fragment;
    size_t left = total - framing.first, from = framing.first - plan.head.size;
    if (!left) return;
    framing.full = (left - 1) / framing.fragment;
    framing.last = left - framing.full * framing.fragment;
    size_t full_size = framing.fragment + PDU_HEADER + PDV_HEADER;
    framing.repeated = REST_IN_MEMORY / full_size < framing.full ? REST_IN_MEMORY / full_size : framing.full;
    framing.rest = memfd_create("rest", 0);
    uint8_t *pdu = malloc(full_size);
    size_t size = pdu_header(pdu, framing.fragment, 0);
    body_bytes(pdu + size, from, framing.fragment);
    for (size_t i = 0; i < framing.repeated; i++)
        if (write(framing.rest, pdu, full_size) != (ssize_t)full_size) die("memfd");
    size = pdu_header(pdu, framing.last, 2);
    body_bytes(pdu + size, from + framing.full * framing.fragment, framing.last);
    if (write(framing.rest, pdu, size + framing.last) != (ssize_t)(size + framing.last)) die("memfd");
    free(pdu);
}

static bool send_all(int to, const uint8_t *at, size_t size, int flags) {
    while (size) {
        ssize_t sent = send(to, at, size, flags | MSG_NOSIGNAL);
        if (sent <= 0) return false;
        at += sent;
        size -= (size_t)sent;
    }
    return true;
}

static bool send_rest(int to, size_t from, size_t size) {
    off_t at = (off_t)from;
    while (size) {
        ssize_t sent = sendfile(to, framing.rest, &at, size);
        if (sent <= 0) return false;
        size -= (size_t)sent;
    }
    return true;
}

static bool receive_all(int from, uint8_t *to, size_t size) {
    while (size) {
        ssize_t got = recv(from, to, size, 0);
        if (got <= 0) return false;
        to += got;
        size -= (size_t)got;
    }
    return true;
}

/* Returns the type of the next PDU and its content, or 0. */
static int receive_pdu(int from, uint8_t *content, size_t *size) {
    uint8_t header[PDU_HEADER];
    if (!receive_all(from, header, sizeof header)) return 0;
    *size = get32(header + 2);
    if (*size > LARGEST_ANSWER || !receive_all(from, content, *size)) return 0;
    return header[0];
}

static size_t advertised(const uint8_t *content, size_t size) {
    size_t at = 68;
    while (at + 4 <= size) {
        size_t length = (size_t)content[at + 2] << 8 | content[at + 3];
        if (content[at] == 0x51) return get32(content + at + 4);
        at += 4 + (content[at] == 0x50 ? 0 : length);
    }
    return 0;
}

static const char *associate(struct worker *self) {
    static __thread uint8_t content[LARGEST_ANSWER];
    size_t size;
    struct timeval patience = {.tv_sec = PATIENCE};
    int yes = 1;
    self->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (self->socket < 0) return "socket";
    setsockopt(self->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(self->socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(self->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(self->socket, (struct sockaddr *)&plan.to, sizeof plan.to)) return "connect";
    if (!send_all(self->socket, plan.associate.at, plan.associate.size, 0)) return "association request not sent";
    int type = receive_pdu(self->socket, content, &size);
    if (type == ASSOCIATE_RJ) return "association rejected";
    if (type != ASSOCIATE_AC) return "no association";
    pthread_mutex_lock(&guard);
    size_t theirs = advertised(content, size);
    if (!negotiated) negotiated = theirs && theirs < plan.pdu ? theirs : plan.pdu;
    pthread_mutex_unlock(&guard);
    pthread_once(&framed, frame);
    return NULL;
}

static void release(struct worker *self) {
    static const uint8_t request[10] = {5, 0, 0, 0, 0, 4};
    static __thread uint8_t content[LARGEST_ANSWER];
    size_t size;
    if (send_all(self->socket, request, sizeof request, 0)) receive_pdu(self->socket, content, &size);
}

/* The first bytes of an instance: command PDU, then the first data PDU. Only the UIDs change between instances. */
static void prepare(struct worker *self) {
    self->front = malloc(plan.command.size + framing.first + 2 * (PDU_HEADER + PDV_HEADER));
    uint8_t *at = self->front;
    at += pdu_header(at, plan.command.size, 3);
    memcpy(at, plan.command.at, plan.command.size);
    at += plan.command.size;
    at += pdu_header(at, framing.first, framing.last ? 0 : 2);
    self->front_uid = (size_t)(at - self->front) + plan.head_uid;
    memcpy(at, plan.head.at, plan.head.size);
    body_bytes(at + plan.head.size, 0, framing.first - plan.head.size);
    self->front_size = (size_t)(at - self->front) + framing.first;
}

static int status_in(const uint8_t *content, size_t size) {
    for (size_t at = PDV_HEADER; at + 10 <= size;) {
        uint32_t tag, length;
        memcpy(&tag, content + at, 4);
        memcpy(&length, content + at + 4, 4);
        if (tag == 0x09000000) return content[at + 8] | content[at + 9] << 8;
        at += 8 + length;
    }
    return -1;
}

static void uid_digits(char *to, long number) {
    snprintf(to, UID_DIGITS + 1, "%s%0*ld", plan.uid_prefix, UID_DIGITS - (int)strlen(plan.uid_prefix), number);
}

static const char *store(struct worker *self, long number) {
    static __thread uint8_t content[LARGEST_ANSWER];
    char uid[UID_DIGITS + 1];
    size_t size;
    uid_digits(uid, number);
    memcpy(self->front + PDU_HEADER + PDV_HEADER + plan.command_uid, uid, UID_DIGITS);
    memcpy(self->front + self->front_uid, uid, UID_DIGITS);
    double start = now();
    if (!send_all(self->socket, self->front, self->front_size, framing.last ? MSG_MORE : 0)) return "not sent";
    size_t full = framing.fragment + PDU_HEADER + PDV_HEADER;
    for (size_t left = framing.full; left;) {
        size_t together = left < framing.repeated ? left : framing.repeated;
        if (!send_rest(self->socket, 0, together * full)) return "not sent";
        left -= together;
    }
    if (framing.last && !send_rest(self->socket, framing.repeated * full, framing.last + PDU_HEADER + PDV_HEADER))
        return "not sent";
    if (receive_pdu(self->socket, content, &size) != P_DATA) return "no answer";
    self->last_answer = now();
    self->latencies[self->stored + self->refused] = self->last_answer - start;
    int status = status_in(content, size);
    if (status == 0) self->answers[self->stored++] = (struct answer){number, start, self->last_answer};
    else self->refused++, self->status = status;
    return NULL;
}

/* Waits until every association is open, or for so long; a receiver that serves one at a time opens one. */
static void settle(bool opened) {
    pthread_mutex_lock(&guard);
    settled++;
    pthread_cond_broadcast(&changed);
    while (opened && !going) pthread_cond_wait(&changed, &guard);
    pthread_mutex_unlock(&guard);
}

static bool more(long *number) {
    if (now() >= began + plan.seconds) return false;
    *number = atomic_fetch_add(&taken, 1);
    if (*number >= plan.count) return false;
    double due = plan.rate ? began + (double)*number / plan.rate : 0, left;
    while ((left = due - now()) > 0) usleep((useconds_t)(left * 1e6) + 1);
    return true;
}

static const char *stream(struct worker *self) {
    const char *error = associate(self);
    settle(!error);
    if (error) return error;
    self->admitted = true;
    long number;
    prepare(self);
    if (plan.mode == STREAM)
        while (!error && more(&number)) error = store(self, number);
    else
        while (now() < began + plan.seconds) usleep(20000);
    if (!error) release(self);
    close(self->socket);
    return error;
}

static const char *churn(struct worker *self) {
    const char *error = NULL;
    long number;
    settle(true);
    while (!error && more(&number)) {
        error = associate(self);
        if (error) break;
        self->admitted = true;
        if (!self->front) prepare(self);
        error = store(self, number);
        if (!error) release(self);
        close(self->socket);
    }
    return error;
}

static void *work(void *argument) {
    struct worker *self = argument;
    self->error = plan.mode == CHURN ? churn(self) : stream(self);
    return NULL;
}

static void start_together(void) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    double whole = (double)until.tv_sec + (double)until.tv_nsec / 1e9 + plan.settle;
    until.tv_sec = (time_t)whole;
    until.tv_nsec = (long)((whole - (double)until.tv_sec) * 1e9);
    pthread_mutex_lock(&guard);
    while (settled < plan.at_once && !pthread_cond_timedwait(&changed, &guard, &until)) continue;
    began = now();
    going = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&guard);
    puts("going");
    fflush(stdout);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void write_answers(struct worker *workers) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double ahead = (double)t.tv_sec + (double)t.tv_nsec / 1e9 - now();
    FILE *file = fopen(plan.answers, "w");
    if (!file) die(plan.answers);
    for (int i = 0; i < plan.associations; i++)
        for (long j = 0; j < workers[i].stored; j++) {
            struct answer *a = &workers[i].answers[j];
            char uid[UID_DIGITS + 1];
            uid_digits(uid, a->number);
            fprintf(file, "%s %.6f %.6f\n", uid, a->start + ahead, a->end + ahead);
        }
    if (fclose(file)) die(plan.answers);
}

static void report(struct worker *workers) {
    long stored = 0, refused = 0, least = -1, most = 0, n = 0;
    int admitted = 0, status = 0;
    double last = began;
    const char *error = "";
    double *all = malloc(sizeof(double) * (size_t)(atomic_load(&taken) + 1));
    for (int i = 0; i < plan.associations; i++) {
        struct worker *w = &workers[i];
        for (long j = 0; j < w->stored + w->refused; j++) all[n++] = w->latencies[j];
        stored += w->stored, refused += w->refused;
        if (w->refused) status = w->status;
        if (w->last_answer > last) last = w->last_answer;
        if (w->error) error = w->error;
        if (!w->admitted) continue;
        admitted++;
        if (least < 0 || w->stored < least) least = w->stored;
        if (w->stored > most) most = w->stored;
    }
    qsort(all, (size_t)n, sizeof *all, ascending);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"stored\":%ld,\"refused\":%ld,\"status\":%d,\"admitted\":%d,\"least\":%ld,\"most\":%ld,\"pdu\":%zu,"
           "\"seconds\":%.6f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"user_seconds\":%.4f,\"cpu_seconds\":%.4f,\"error\":\"%s\"}\n",
           stored, refused, status, admitted, least < 0 ? 0 : least, most, negotiated, last - began,
           n ? all[n / 2] * 1e3 : 0, n ? all[n * 99 / 100] * 1e3 : 0,
           (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6, cpu, error);
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {
        {"host", 1, 0, 'h'}, {"port", 1, 0, 'p'}, {"cargo", 1, 0, 'c'}, {"body", 1, 0, 'b'},
        {"command-uid", 1, 0, 'C'}, {"head-uid", 1, 0, 'H'}, {"uid-prefix", 1, 0, 'u'}, {"associations", 1, 0, 'a'},
        {"count", 1, 0, 'n'}, {"seconds", 1, 0, 's'}, {"pdu", 1, 0, 'l'}, {"settle", 1, 0, 'S'}, {"mode", 1, 0, 'm'},
        {"at-once", 1, 0, 'A'}, {"rate", 1, 0, 'r'}, {"answers", 1, 0, 'o'}, {0}};
    const char *cargo = ".";
    int option;
    plan.to.sin_family = AF_INET;
    plan.associations = 1, plan.count = 1, plan.seconds = 60, plan.settle = 3, plan.pdu = 131072;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) switch (option) {
        case 'h': inet_pton(AF_INET, optarg, &plan.to.sin_addr); break;
        case 'p': plan.to.sin_port = htons((uint16_t)atoi(optarg)); break;
        case 'c': cargo = optarg; break;
        case 'b': plan.body = strtoul(optarg, NULL, 10); break;
        case 'C': plan.command_uid = strtoul(optarg, NULL, 10); break;
        case 'H': plan.head_uid = strtoul(optarg, NULL, 10); break;
        case 'u': plan.uid_prefix = optarg; break;
        case 'a': plan.associations = atoi(optarg); break;
        case 'n': plan.count = atol(optarg); break;
        case 's': plan.seconds = atof(optarg); break;
        case 'l': plan.pdu = strtoul(optarg, NULL, 10); break;
        case 'S': plan.settle = atof(optarg); break;
        case 'r': plan.rate = atof(optarg); break;
        case 'o': plan.answers = optarg; break;
        case 'A': plan.at_once = atoi(optarg); break;
        case 'm': plan.mode = *optarg == 'c' ? CHURN : *optarg == 'i' ? IDLE : STREAM; break;
        default: exit(2);
    }
    if (!plan.at_once || plan.at_once > plan.associations) plan.at_once = plan.associations;
    plan.associate = load(cargo, "associate");
    plan.command = load(cargo, "command");
    plan.head = load(cargo, "head");
    plan.block = load(cargo, "block");
    if (plan.block.size != BLOCK || !plan.uid_prefix || strlen(plan.uid_prefix) >= UID_DIGITS) die("cargo");
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    parse(argc, argv);
    struct worker *workers = calloc((size_t)plan.associations, sizeof *workers);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 512 << 10);
    for (int i = 0; i < plan.associations; i++) {
        workers[i].latencies = malloc(sizeof(double) * (size_t)(plan.count + 1));
        workers[i].answers = malloc(sizeof(struct answer) * (size_t)(plan.count + 1));
        if (pthread_create(&workers[i].thread, &small, work, &workers[i])) die("thread");
    }
    start_together();
    for (int i = 0; i < plan.associations; i++) pthread_join(workers[i].thread, NULL);
    if (plan.answers) write_answers(workers);
    report(workers);
    return 0;
}
