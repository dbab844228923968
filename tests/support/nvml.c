/* Stands in for libnvidia-ml.so.1: the symbols that the agent's probe uses, with figures out of a text
 * file named `cards` in the library's own folder, or the one that NVML_STAND_IN_CARDS names, read anew for
 * every call. The ledger of the development workers is such a file. A line is a word and what belongs to it;
 * `unknown` is 2^64-1.
 *
 *   init CODE          what nvmlInit returns; not there: 0
 *   card UUID [CODE]   the lines below are of this card; with a code it cannot even be opened
 *   name TEXT
 *   total BYTES
 *   free BYTES
 *   process PID BYTES  a compute process
 *   held PID BYTES START
 *                      the same, if the process that began then still lives: what it has is not free
 *   graphics PID BYTES
 *   unlisted           the driver does not say who is on the card
 *   busy PERCENT       not there: not supported
 *   gone               the card has fallen off the bus, and is not back before the next nvmlInit
 *   error CODE         what is returned instead of the memory
 *   hang FILE          nothing is answered until somebody opens this FIFO for writing
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, LOST = 15 };
enum { CARDS = 16, PROCESSES = 64 };

typedef unsigned long long bytes;

struct process {
    unsigned pid;
    bytes used;
    int graphics;
};

struct card {
    char uuid[96];
    char name[96];
    bytes total, free;
    int locked, gone, error, unlisted, busy;
    char hang[512];
    int processes;
    struct process process[PROCESSES];
};

struct figures {
    int init, cards;
    struct card card[CARDS];
};

/* As NVML has them. */
struct memory {
    unsigned version;
    bytes total, reserved, free, used;
};

struct process_info {
    unsigned pid;
    bytes used;
    unsigned gpu_instance, compute_instance;
};

static int initialised;
/* Cards that were seen to be gone since. */
static char lost[CARDS][96];
/* A handle is the place of a card's name in here. */
static char handles[CARDS][96];

static bytes amount(const char *text) {
    return strcmp(text, "unknown") == 0 ? ~0ULL : strtoull(text, NULL, 10);
}

/* Whether the process that began at this tick is there, and not only its exit status. */
static int lives(unsigned pid, bytes start) {
    char path[64], stat[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) {
        return 0;
    }
    size_t length = fread(stat, 1, sizeof stat - 1, file);
    fclose(file);
    stat[length] = 0;
    /* The name in brackets may have brackets and blanks in it. */
    char *rest = strrchr(stat, ')');
    if (!rest || !rest[1] || rest[2] == 'Z' || rest[2] == 'X') {
        return 0;
    }
    /* The state is field 3, the start field 22. */
    char *field = rest + 2;
    for (int at = 3; at < 22 && field; at++) {
        field = strchr(field, ' ');
        field = field ? field + 1 : NULL;
    }
    return field && strtoull(field, NULL, 10) == start;
}

static void look(struct figures *all) {
    char path[1024];
    Dl_info own;
    memset(all, 0, sizeof *all);
    const char *named = getenv("NVML_STAND_IN_CARDS");
    if (named) {
        snprintf(path, sizeof path, "%s", named);
    } else {
        if (!dladdr((void *)look, &own)) {
            return;
        }
        snprintf(path, sizeof path, "%s", own.dli_fname);
        char *slash = strrchr(path, '/');
        snprintf(slash ? slash + 1 : path, 8, "cards");
    }
    FILE *file = fopen(path, "r");
    if (!file) {
        return;
    }
    char line[1024];
    struct card *card = NULL;
    while (fgets(line, sizeof line, file)) {
        char word[16] = "", first[512] = "", second[64] = "", third[64] = "";
        line[strcspn(line, "\n")] = 0;
        sscanf(line, "%15s %511s %63s %63s", word, first, second, third);
        if (strcmp(word, "init") == 0) {
            all->init = atoi(first);
        } else if (strcmp(word, "card") == 0 && all->cards < CARDS) {
            card = &all->card[all->cards++];
            snprintf(card->uuid, sizeof card->uuid, "%.95s", first);
            card->locked = atoi(second);
            card->busy = -1;
        } else if (!card) {
            continue;
        } else if (strcmp(word, "name") == 0) {
            snprintf(card->name, sizeof card->name, "%.95s", line + 5);
        } else if (strcmp(word, "total") == 0) {
            card->total = amount(first);
        } else if (strcmp(word, "free") == 0) {
            card->free = amount(first);
        } else if (strcmp(word, "unlisted") == 0) {
            card->unlisted = 1;
        } else if (strcmp(word, "busy") == 0) {
            card->busy = atoi(first);
        } else if (strcmp(word, "gone") == 0) {
            card->gone = 1;
        } else if (strcmp(word, "error") == 0) {
            card->error = atoi(first);
        } else if (strcmp(word, "hang") == 0) {
            snprintf(card->hang, sizeof card->hang, "%s", first);
        } else if ((strcmp(word, "process") == 0 || strcmp(word, "graphics") == 0) &&
                   card->processes < PROCESSES) {
            struct process *process = &card->process[card->processes++];
            process->pid = (unsigned)strtoul(first, NULL, 10);
            process->used = amount(second);
            process->graphics = strcmp(word, "graphics") == 0;
        } else if (strcmp(word, "held") == 0 && card->processes < PROCESSES &&
                   lives((unsigned)strtoul(first, NULL, 10), strtoull(third, NULL, 10))) {
            struct process *process = &card->process[card->processes++];
            process->pid = (unsigned)strtoul(first, NULL, 10);
            process->used = amount(second);
            card->free = card->free > process->used ? card->free - process->used : 0;
        }
    }
    fclose(file);
}

static int find(const char *uuid, struct card *found) {
    static struct figures all;
    if (!initialised) {
        return UNINITIALIZED;
    }
    look(&all);
    for (int at = 0; at < all.cards; at++) {
        if (strcmp(all.card[at].uuid, uuid) == 0) {
            *found = all.card[at];
            for (int gone = 0; gone < CARDS; gone++) {
                if (found->gone && lost[gone][0] == 0) {
                    snprintf(lost[gone], sizeof lost[gone], "%s", uuid);
                }
                found->gone |= strcmp(lost[gone], uuid) == 0;
            }
            return found->locked ? found->locked : found->gone ? LOST : OK;
        }
    }
    return NOT_FOUND;
}

static int open_card(const char *uuid, void **device) {
    static struct card card;
    int code = find(uuid, &card);
    if (code != OK && code != LOST) {
        return code;
    }
    for (int at = 0; at < CARDS; at++) {
        if (handles[at][0] == 0 || strcmp(handles[at], uuid) == 0) {
            snprintf(handles[at], sizeof handles[at], "%s", uuid);
            *device = handles[at];
            return OK;
        }
    }
    return INVALID_ARGUMENT;
}

int nvmlInit_v2(void) {
    static struct figures all;
    look(&all);
    memset(lost, 0, sizeof lost);
    initialised = all.init == OK;
    return all.init;
}

int nvmlShutdown(void) {
    initialised = 0;
    return OK;
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    snprintf(text, length, "550.54.14");
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    static struct figures all;
    look(&all);
    *count = (unsigned)all.cards;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    static struct figures all;
    look(&all);
    if (index >= (unsigned)all.cards) {
        return INVALID_ARGUMENT;
    }
    return open_card(all.card[index].uuid, device);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    return open_card(uuid, device);
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
    static struct card card;
    int code = find(device, &card);
    snprintf(text, length, "%s", card.uuid);
    return code;
}

int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    static struct card card;
    int code = find(device, &card);
    snprintf(text, length, "%s", card.name);
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory *memory) {
    static struct card card;
    int code = find(device, &card);
    if (code != OK) {
        return code;
    }
    if (memory->version != (sizeof *memory | 2U << 24)) {
        return INVALID_ARGUMENT;
    }
    if (card.hang[0]) {
        int fifo = open(card.hang, O_RDONLY);
        if (fifo >= 0) {
            close(fifo);
        }
    }
    memory->total = card.total;
    memory->free = card.free;
    memory->used = card.total - card.free;
    memory->reserved = 0;
    return card.error;
}

static int list(void *device, unsigned *count, struct process_info *infos, int graphics) {
    static struct card card;
    int code = find(device, &card);
    if (code != OK) {
        return code;
    }
    if (card.unlisted) {
        return NOT_SUPPORTED;
    }
    unsigned room = *count, there = 0;
    for (int at = 0; at < card.processes; at++) {
        if (card.process[at].graphics != graphics) {
            continue;
        }
        if (infos && there < room) {
            struct process_info info = {card.process[at].pid, card.process[at].used, ~0U, ~0U};
            infos[there] = info;
        }
        there++;
    }
    *count = there;
    return there > (infos ? room : 0) ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    static struct card card;
    int code = find(device, &card);
    if (code == OK && card.busy < 0) {
        return NOT_SUPPORTED;
    }
    rates[0] = (unsigned)card.busy;
    rates[1] = 0;
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process_info *infos) {
    return list(device, count, infos, 0);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, struct process_info *infos) {
    return list(device, count, infos, 1);
}
