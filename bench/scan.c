/* Walks the whole key space once and prints one line of JSON: how many entries, in how long, what it took itself.
 *
 *   scan ENDPOINTS keys|values
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "client/cairn.h"
#include "common.h"

static double cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
    if (argc != 3 || (strcmp(argv[2], "keys") != 0 && strcmp(argv[2], "values") != 0)) {
        fprintf(stderr, "usage: scan ENDPOINTS keys|values\n");
        return 2;
    }
    char text[256];
    struct cairn *cairn;
    struct cairn_options options = { .endpoints = argv[1],
                                     .program = "bench-scan",
                                     .timeout_ms = 30000 };
    if (cairn_open(&options, &cairn, text) != 0) {
        fprintf(stderr, "scan: %s\n", text);
        return 1;
    }
    struct cairn_scan_options wanted = { .keys_only = strcmp(argv[2], "keys") == 0 };
    struct cairn_scan *scan;
    struct cairn_entry entry;
    uint64_t begin = clock_ns(CLOCK_MONOTONIC), entries = 0, bytes = 0;
    int status = cairn_scan_open(cairn, &wanted, &scan);
    if (status == 0) {
        while ((status = cairn_scan_next(scan, &entry)) == 1) {
            entries++;
            bytes += entry.key_size + entry.value_size;
        }
        cairn_scan_close(scan);
    }
    double seconds = (double)(clock_ns(CLOCK_MONOTONIC) - begin) / 1e9;
    if (status != 0) {
        fprintf(stderr, "scan: %s: %s\n", cairn_error(status)->name, cairn_last_error(cairn));
    } else {
        printf("{\"entries\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"bench_cpu_s\":%.3f}\n",
               (unsigned long long)entries, (unsigned long long)bytes, seconds, cpu_s());
    }
    cairn_close(cairn);
    return status != 0;
}
