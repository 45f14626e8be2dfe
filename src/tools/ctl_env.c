/* Where the endpoints come from when no option names them: CAIRN_ENDPOINTS, else the file
 * .cairn/env of the working folder or of the nearest parent that has one. The file is parsed, never
 * executed, and only believed when it belongs to the caller: a stranger's folder must not lead
 * anybody's keys to a stranger's nodes. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/ctl.h"

/* The value of "[export ]CAIRN_ENDPOINTS=value" with or without quotes, or NULL. */
static char *line_value(char *line)
{
    static const char name[] = "CAIRN_ENDPOINTS=";
    line += strspn(line, " \t");
    if (strncmp(line, "export ", 7) == 0) {
        line += 7 + strspn(line + 7, " \t");
    }
    if (strncmp(line, name, sizeof name - 1) != 0) {
        return NULL;
    }
    char *value = line + sizeof name - 1;
    char quote = *value == '"' || *value == '\'' ? *value++ : 0;
    value[quote ? strcspn(value, (char[]){ quote, '\n', 0 }) : strcspn(value, " \t\r\n;#")] = '\0';
    return *value ? value : NULL;
}

static char *read_env_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat stat;
    if (fd < 0) {
        return NULL;
    }
    if (fstat(fd, &stat) || !S_ISREG(stat.st_mode) || stat.st_uid != geteuid() ||
        (stat.st_mode & (S_IWGRP | S_IWOTH))) {
        close(fd);
        return NULL;
    }
    FILE *file = fdopen(fd, "r");
    char line[4096];
    char *found = NULL;
    while (file && fgets(line, sizeof line, file)) {
        char *value = line_value(line);
        if (value) {
            free(found);
            found = strdup(value);
        }
    }
    if (file) {
        fclose(file);
    }
    return found;
}

char *ctl_find_endpoints(const char *option)
{
    const char *variable = getenv("CAIRN_ENDPOINTS");
    if (option || (variable && variable[0])) {
        return strdup(option ? option : variable);
    }
    char folder[PATH_MAX], path[PATH_MAX + 16];
    if (getcwd(folder, sizeof folder) && folder[0] == '/') {
        for (;;) {
            snprintf(path, sizeof path, "%s/.cairn/env", folder);
            char *found = read_env_file(path);
            if (found) {
                return found;
            }
            char *slash = strrchr(folder, '/');
            if (!slash) {
                break;
            }
            *slash = '\0'; /* "" is the root: "/.cairn/env" */
        }
    }
    return strdup("127.0.0.1:7400");
}
