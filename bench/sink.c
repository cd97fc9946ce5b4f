/* The limit: the least a program can do that takes DICOM instances from sockets and puts them in files.
 *
 * sink ADDRESS PORT FOLDER none|file|group [digest]
 *
 * none:  write to a file in FOLDER, answer.
 * file:  write to FOLDER/incoming, fsync, rename into FOLDER/ready, fsync that folder, answer.
 * group: write to FOLDER/incoming, rename into FOLDER/ready, wait for a syncfs that began after that, answer;
 *        one thread syncs for all instances that wait.
 * digest: compute the SHA-256 of each data set with OpenSSL, as Python's hashlib does.
 *
 * It accepts every presentation context, checks nothing and trusts its senders: for measuring only.
 * One thread per association, with one 256 KiB buffer each; fragments are written straight from it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* OpenSSL's, declared here so that its headers need not be installed. */
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_md_st EVP_MD;
extern EVP_MD_CTX *EVP_MD_CTX_new(void);
extern const EVP_MD *EVP_sha256(void);
extern int EVP_DigestInit_ex(EVP_MD_CTX *, const EVP_MD *, void *);
extern int EVP_DigestUpdate(EVP_MD_CTX *, const void *, size_t);
extern int EVP_DigestFinal_ex(EVP_MD_CTX *, unsigned char *, unsigned *);

enum { BUFFER = 256 << 10, ADVERTISED_PDU = 131072, SLICES = 64, COMMAND = 4096, NAME = 128 };
enum { ASSOCIATE_RQ = 1, ASSOCIATE_AC = 2, P_DATA = 4, RELEASE_RQ = 5, RELEASE_RP = 6 };
enum { IS_COMMAND = 1, IS_LAST = 2 };

static enum { SYNC_NONE, SYNC_FILE, SYNC_GROUP } sync_mode;
static bool with_digest;
static int incoming, ready;

struct association {
    int socket;
    uint8_t buffer[BUFFER];
    size_t begin, end;              /* what has been received and not yet used */
    size_t pdu_left, pdv_left;      /* bytes to come of the current PDU and fragment */
    int flags;
    uint8_t command[COMMAND];
    size_t command_size;
    uint8_t context;
    char name[NAME];
    int file;
    struct iovec slices[SLICES];
    int slice_count;
    EVP_MD_CTX *digest;
};

/* ---- group commit ---- */

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wanted = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static uint64_t asked, begun, done;

static void *commit_groups(void *unused) {
    (void)unused;
    pthread_mutex_lock(&guard);
    for (;;) {
        while (asked <= begun) pthread_cond_wait(&wanted, &guard);
        uint64_t group = begun = asked;
        pthread_mutex_unlock(&guard);
        if (syncfs(ready)) abort();
        pthread_mutex_lock(&guard);
        done = group;
        pthread_cond_broadcast(&finished);
    }
    return NULL;
}

static void wait_for_group(void) {
    pthread_mutex_lock(&guard);
    uint64_t mine = asked = begun + 1;
    pthread_cond_signal(&wanted);
    while (done < mine) pthread_cond_wait(&finished, &guard);
    pthread_mutex_unlock(&guard);
}

/* ---- files ---- */

static bool flush(struct association *self) {
    struct iovec *next = self->slices;
    int left = self->slice_count;
    self->slice_count = 0;
    while (left) {
        ssize_t written = writev(self->file, next, left);
        if (written < 0) return false;
        while (left && (size_t)written >= next->iov_len) written -= (ssize_t)next->iov_len, next++, left--;
        if (left) next->iov_base = (uint8_t *)next->iov_base + written, next->iov_len -= (size_t)written;
    }
    return true;
}

static bool data(struct association *self, uint8_t *at, size_t size) {
    if (self->file < 0) self->file = openat(incoming, self->name, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    if (self->file < 0) return false;
    if (with_digest) EVP_DigestUpdate(self->digest, at, size);
    if (self->slice_count == SLICES && !flush(self)) return false;
    self->slices[self->slice_count++] = (struct iovec){at, size};
    return true;
}

static bool keep(struct association *self) {
    uint8_t digest[32];
    if (!flush(self)) return false;
    if (with_digest) {
        EVP_DigestFinal_ex(self->digest, digest, NULL);
        EVP_DigestInit_ex(self->digest, EVP_sha256(), NULL);
    }
    if (sync_mode == SYNC_FILE && fsync(self->file)) return false;
    if (close(self->file)) return false;
    self->file = -1;
    if (sync_mode != SYNC_NONE && renameat(incoming, self->name, ready, self->name)) return false;
    if (sync_mode == SYNC_FILE && fsync(ready)) return false;
    if (sync_mode == SYNC_GROUP) wait_for_group();
    return true;
}

/* ---- the protocol ---- */

static bool send_all(int to, const uint8_t *at, size_t size) {
    while (size) {
        ssize_t sent = send(to, at, size, MSG_NOSIGNAL);
        if (sent <= 0) return false;
        at += sent;
        size -= (size_t)sent;
    }
    return true;
}

static uint32_t get32(const uint8_t *at) {
    uint32_t encoded;
    memcpy(&encoded, at, 4);
    return ntohl(encoded);
}

static void put32(uint8_t *at, size_t value) {
    uint32_t encoded = htonl((uint32_t)value);
    memcpy(at, &encoded, 4);
}

static uint8_t *item(uint8_t *at, int type, const void *value, size_t size) {
    at[0] = (uint8_t)type, at[1] = 0, at[2] = (uint8_t)(size >> 8), at[3] = (uint8_t)size;
    memcpy(at + 4, value, size);
    return at + 4 + size;
}

/* Accepts each proposed context with the first of its transfer syntaxes. */
static uint8_t *accept_context(uint8_t *at, const uint8_t *proposed, size_t size) {
    for (size_t in = 4; in + 4 <= size; in += 4 + (size_t)(proposed[in + 2] << 8 | proposed[in + 3])) {
        if (proposed[in] != 0x40) continue;
        uint8_t content[4 + 4 + 64] = {proposed[0]};
        size_t length = (size_t)(proposed[in + 2] << 8 | proposed[in + 3]);
        uint8_t *end = item(content + 4, 0x40, proposed + in + 4, length > 64 ? 64 : length);
        return item(at, 0x21, content, (size_t)(end - content));
    }
    return at;
}

static bool accept_association(struct association *self, const uint8_t *request, size_t size) {
    static const char application[] = "1.2.840.10008.3.1.1.1", class_uid[] = "1.2.826.0.1.3680043.10.1733.1";
    uint8_t answer[16384] = {ASSOCIATE_AC}, user[64], length[4], *at = answer + 6;
    memcpy(at, request, 68);
    at = item(at + 68, 0x10, application, sizeof application - 1);
    for (size_t in = 68; in + 4 <= size && at < answer + sizeof answer - 512;) {
        size_t content = (size_t)(request[in + 2] << 8 | request[in + 3]);
        if (request[in] == 0x20) at = accept_context(at, request + in + 4, content);
        in += 4 + content;
    }
    put32(length, ADVERTISED_PDU);
    uint8_t *end = item(user, 0x51, length, 4);
    end = item(end, 0x52, class_uid, sizeof class_uid - 1);
    at = item(at, 0x50, user, (size_t)(end - user));
    put32(answer + 2, (size_t)(at - answer) - 6);
    return send_all(self->socket, answer, (size_t)(at - answer));
}

static const uint8_t *element(struct association *self, uint16_t number, size_t *size) {
    for (size_t at = 0; at + 8 <= self->command_size;) {
        uint16_t tag[2];
        uint32_t length;
        memcpy(tag, self->command + at, 4);
        memcpy(&length, self->command + at + 4, 4);
        *size = length;
        if (!tag[0] && tag[1] == number) return self->command + at + 8;
        at += 8 + length;
    }
    *size = 0;
    return self->command;
}

static uint8_t *put_element(uint8_t *at, uint16_t number, const void *value, size_t size) {
    uint16_t tag[2] = {0, number};
    uint32_t length = (uint32_t)size;
    memcpy(at, tag, 4);
    memcpy(at + 4, &length, 4);
    memcpy(at + 8, value, size);
    return at + 8 + size;
}

static bool answer_success(struct association *self) {
    static const uint16_t response = 0x8001, no_data_set = 0x0101, success = 0;
    uint8_t answer[512] = {P_DATA}, *command = answer + 12, *at = command + 12;
    size_t size;
    const uint8_t *value = element(self, 0x0002, &size);
    at = put_element(at, 0x0002, value, size > 64 ? 64 : size);
    at = put_element(at, 0x0100, &response, 2);
    value = element(self, 0x0110, &size);
    at = put_element(at, 0x0120, value, 2);
    at = put_element(at, 0x0800, &no_data_set, 2);
    at = put_element(at, 0x0900, &success, 2);
    value = element(self, 0x1000, &size);
    at = put_element(at, 0x1000, value, size > 64 ? 64 : size);
    uint32_t group = (uint32_t)(at - command) - 12;
    put_element(command, 0x0000, &group, 4);
    put32(answer + 2, (size_t)(at - command) + 6);
    put32(answer + 6, (size_t)(at - command) + 2);
    answer[10] = self->context;
    answer[11] = IS_COMMAND | IS_LAST;
    self->command_size = 0;
    return send_all(self->socket, answer, (size_t)(at - answer));
}

static void name_file(struct association *self) {
    size_t size;
    const char *uid = (const char *)element(self, 0x1000, &size);
    snprintf(self->name, sizeof self->name, "%.*s.dcm", (int)size, uid);
}

static bool fragment(struct association *self, uint8_t *at, size_t size) {
    if (!(self->flags & IS_COMMAND)) return data(self, at, size);
    if (self->command_size + size > COMMAND) return false;
    memcpy(self->command + self->command_size, at, size);
    self->command_size += size;
    return true;
}

static bool fragment_ended(struct association *self) {
    if (!(self->flags & IS_LAST)) return true;
    if (self->flags & IS_COMMAND) return name_file(self), true;
    return keep(self) && answer_success(self);
}

/* Moves what is left to the front of the buffer and receives more, until there are so many bytes. */
static bool have(struct association *self, size_t size) {
    while (self->end - self->begin < size) {
        if (size > BUFFER || !flush(self)) return false;
        if (self->begin == self->end) self->begin = self->end = 0;
        if (self->begin) {
            memmove(self->buffer, self->buffer + self->begin, self->end - self->begin);
            self->end -= self->begin, self->begin = 0;
        }
        ssize_t got = recv(self->socket, self->buffer + self->end, BUFFER - self->end, 0);
        if (got <= 0) return false;
        self->end += (size_t)got;
    }
    return true;
}

static bool p_data(struct association *self) {
    while (self->pdu_left) {
        if (!have(self, 6)) return false;
        uint8_t *at = self->buffer + self->begin;
        self->pdv_left = get32(at) - 2, self->context = at[4], self->flags = at[5];
        self->begin += 6, self->pdu_left -= 6 + self->pdv_left;
        while (self->pdv_left) {
            if (!have(self, 1)) return false;
            size_t here = self->end - self->begin;
            if (here > self->pdv_left) here = self->pdv_left;
            if (!fragment(self, self->buffer + self->begin, here)) return false;
            self->begin += here, self->pdv_left -= here;
        }
        if (!fragment_ended(self)) return false;
    }
    return true;
}

static bool next_pdu(struct association *self) {
    static const uint8_t released[10] = {RELEASE_RP, 0, 0, 0, 0, 4};
    if (!have(self, 6)) return false;
    uint8_t type = self->buffer[self->begin];
    size_t size = get32(self->buffer + self->begin + 2);
    self->begin += 6;
    if (type == P_DATA) return self->pdu_left = size, p_data(self);
    if (!have(self, size)) return false;
    const uint8_t *content = self->buffer + self->begin;
    self->begin += size;
    if (type == ASSOCIATE_RQ) return accept_association(self, content, size);
    if (type == RELEASE_RQ) send_all(self->socket, released, sizeof released);
    return false;
}

static void *serve(void *argument) {
    struct association *self = argument;
    if (with_digest) self->digest = EVP_MD_CTX_new(), EVP_DigestInit_ex(self->digest, EVP_sha256(), NULL);
    while (next_pdu(self)) continue;
    close(self->socket);
    if (self->file >= 0) close(self->file);
    free(self);
    return NULL;
}

static int folder(const char *parent, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", parent, name);
    mkdir(path, 0700);
    int opened = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0) exit((perror(path), 1));
    return opened;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    signal(SIGPIPE, SIG_IGN);
    sync_mode = !strcmp(argv[4], "file") ? SYNC_FILE : !strcmp(argv[4], "group") ? SYNC_GROUP : SYNC_NONE;
    with_digest = argc > 5;
    incoming = folder(argv[3], "incoming"), ready = folder(argv[3], "ready");
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &here.sin_addr);
    int yes = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listening, (struct sockaddr *)&here, sizeof here) || listen(listening, 128)) exit((perror("listen"), 1));
    pthread_t thread;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, 128 << 10);
    if (sync_mode == SYNC_GROUP) pthread_create(&thread, &detached, commit_groups, NULL);
    for (;;) {
        int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0) continue;
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct association *self = malloc(sizeof *self);
        memset(self, 0, offsetof(struct association, buffer));
        memset(&self->begin, 0, sizeof *self - offsetof(struct association, begin));
        self->socket = connection, self->file = -1;
        if (pthread_create(&thread, &detached, serve, self)) close(connection), free(self);
    }
}
