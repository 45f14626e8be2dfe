/* How the private server comes about.
 *
 * PostgreSQL finds its libraries and shared files relative to its program:
 * /usr/lib/postgresql/15/bin/postgres looks in ../lib and ../../../../share/postgresql/15, and
 * follows links of the program first. So ROOT/lib/postgresql/15/bin holds copies of the programs, and beside it stand folders of links to
 * the system's files, with our extension's among them.
 *
 *   ROOT/lib/postgresql/15/bin/       copies: postgres, initdb
 *   ROOT/lib/postgresql/15/lib/       links, and cairn_fdw.so
 *   ROOT/share/postgresql/15/         links
 *   ROOT/share/postgresql/15/extension/  links, and cairn_fdw's control and sql
 *   ROOT/data/                        the server's data
 *   TEMP/                             0700: the socket (a socket's path has at most 107 bytes, DIR may be long); DIR/pg links to it
 *
 * ROOT is DIR/postgres where the server's user can come there, else TEMP/postgres: under root the
 * server runs as user postgres, who may not enter, say, root's home. What is lost with TEMP are
 * definitions that `sql setup` makes again; the rows live in Cairn. */
#include "tools/dev_pg.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libpq-fe.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "tools/dev_process.h"

#define PG_VERSION_TEXT "15"
#define PG_SYSTEM "/usr"
#define PG_BIN "lib/postgresql/" PG_VERSION_TEXT "/bin"
#define PG_LIB "lib/postgresql/" PG_VERSION_TEXT "/lib"
#define PG_SHARE "share/postgresql/" PG_VERSION_TEXT

enum { PG_START_MS = 60000, PG_STOP_MS = 20000 };

const char *dev_pg_user(void)
{
    static const char *const fallback = "postgres";

    if (geteuid() == 0) {
        return fallback;
    }
    struct passwd *entry = getpwuid(geteuid());
    return entry ? entry->pw_name : fallback;
}

/* The user to switch to; NULL: none. */
static const char *switch_user(void)
{
    return geteuid() == 0 ? "postgres" : NULL;
}

/* --- Trees */

static int remove_entry(const char *path, const struct stat *stat_of, int type,
                        struct FTW *position)
{
    if (type == FTW_DP || type == FTW_D || type == FTW_DNR) {
        rmdir(path);
    } else {
        unlink(path);
    }
    return 0;
}

bool dev_remove_tree(const char *path)
{
    struct stat stat_of;

    nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    return lstat(path, &stat_of) < 0 && errno == ENOENT;
}

static int make_dirs(const char *path, struct err *err)
{
    char *copy = mem_strdup(path);
    int status = 0;

    for (char *at = copy + 1; !status; at++) {
        char ends = *at;
        if (ends == '/' || ends == '\0') {
            *at = '\0';
            if (mkdir(copy, 0755) < 0 && errno != EEXIST) {
                status = err_set(err, ERR_IO, "make %.200s: %s", copy, strerror(errno));
            }
            *at = ends;
        }
        if (ends == '\0') {
            break;
        }
    }
    mem_free(copy);
    return status;
}

static int copy_file(const char *from, const char *to, mode_t mode, struct err *err)
{
    char bytes[64 << 10];
    char *temporary = mem_printf("%s.new", to);
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    ssize_t size = -1;
    int status = 0;

    while (in >= 0 && out >= 0 && (size = read(in, bytes, sizeof bytes)) > 0) {
        if (write(out, bytes, (size_t)size) != size) {
            size = -1;
            break;
        }
    }
    /* By rename: a running server keeps the file that it has mapped. */
    if (in < 0 || out < 0 || size < 0 || fchmod(out, mode) < 0 || rename(temporary, to) < 0) {
        status = err_set(err, ERR_IO, "copy %.100s to %.100s: %s", from, to, strerror(errno));
    }
    if (in >= 0) {
        close(in);
    }
    if (out >= 0) {
        close(out);
    }
    mem_free(temporary);
    return status;
}

/* Links every entry of `from` into `to`, but the one called `except`. */
static int link_entries(const char *from, const char *to, const char *except, struct err *err)
{
    DIR *dir;
    struct dirent *entry;
    int status = make_dirs(to, err);

    if (status) {
        return status;
    }
    dir = opendir(from);
    if (!dir) {
        return err_set(err, ERR_NOT_FOUND,
                       "%.100s: %s; is postgresql-" PG_VERSION_TEXT " installed?", from,
                       strerror(errno));
    }
    while (!status && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (except && strcmp(entry->d_name, except) == 0)) {
            continue;
        }
        char *source = mem_printf("%s/%s", from, entry->d_name);
        char *target = mem_printf("%s/%s", to, entry->d_name);
        if (symlink(source, target) < 0 && errno != EEXIST) {
            status = err_set(err, ERR_IO, "link %.200s: %s", target, strerror(errno));
        }
        mem_free(source);
        mem_free(target);
    }
    closedir(dir);
    return status;
}

/* --- Places */

static char *root_in_dir(const struct dev_pg *pg)
{
    return mem_printf("%s/postgres", pg->dir);
}

/* Whether the server's user can come to a folder: a child that became that user tries. */
static bool user_can_reach(const char *path)
{
    const char *user = switch_user();
    int status;

    if (!user) {
        return true;
    }
    struct passwd *entry = getpwnam(user);
    pid_t child = entry ? fork() : -1;
    if (child == 0) {
        bool ok =
            setgid(entry->pw_gid) == 0 && setuid(entry->pw_uid) == 0 && access(path, X_OK) == 0;
        _exit(ok ? 0 : 1);
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

static char *pg_root(const struct dev_pg *pg)
{
    return user_can_reach(pg->dir) ? root_in_dir(pg) : mem_printf("%s/postgres", pg->temp);
}

static int give_to_user(const char *path, struct err *err)
{
    const char *user = switch_user();
    struct passwd *entry = user ? getpwnam(user) : NULL;

    if (user && !entry) {
        return err_set(
            err, ERR_NOT_FOUND,
            "there is no user %s, as whom the server would run; is postgresql-%s installed?", user,
            PG_VERSION_TEXT);
    }
    if (entry && chown(path, entry->pw_uid, entry->pw_gid) < 0) {
        return err_set(err, ERR_IO, "give %.200s to %s: %s", path, user, strerror(errno));
    }
    return 0;
}

/* The temporary folder of an earlier run if it is still there and still ours, else a new one; and
 * the link to it. */
static int make_temp(struct dev_pg *pg, struct err *err)
{
    struct stat stat_of;
    struct passwd *entry = getpwnam(dev_pg_user());
    char *link = mem_printf("%s/pg", pg->dir);
    int status = 0;

    if (pg->temp && (lstat(pg->temp, &stat_of) < 0 || !S_ISDIR(stat_of.st_mode) || !entry ||
                     stat_of.st_uid != entry->pw_uid || (stat_of.st_mode & 0077))) {
        mem_free(pg->temp);
        pg->temp = NULL;
    }
    if (!pg->temp) {
        char made[] = "/tmp/cairn-dev-XXXXXX";
        if (!mkdtemp(made)) {
            status = err_set(err, ERR_IO, "make %s: %s", made, strerror(errno));
            goto out;
        }
        pg->temp = mem_strdup(made);
        status = give_to_user(pg->temp, err);
    }
    unlink(link);
    if (!status && symlink(pg->temp, link) < 0) {
        status = err_set(err, ERR_IO, "link %.200s: %s", link, strerror(errno));
    }
out:
    mem_free(link);
    return status;
}

/* --- The installation */

static int install_extension(const struct dev_pg *pg, const char *root, struct err *err)
{
    static const struct {
        const char *name, *folder;
    } files[] = {
        { "cairn_fdw.so", PG_LIB },
        { "cairn_fdw.control", PG_SHARE "/extension" },
        { "cairn_fdw--1.0.sql", PG_SHARE "/extension" },
    };
    int status = 0;

    if (!pg->extension) { /* the links lead to it */
        return access(PG_SYSTEM "/" PG_LIB "/cairn_fdw.so", R_OK) == 0
                   ? 0
                   : err_set(
                         err, ERR_NOT_FOUND,
                         "cairn_fdw.so is neither beside this program nor installed: make pgext");
    }
    for (size_t i = 0; !status && i < sizeof files / sizeof files[0]; i++) {
        char *from = mem_printf("%s/%s", pg->extension, files[i].name);
        char *to = mem_printf("%s/%s/%s", root, files[i].folder, files[i].name);
        status = copy_file(from, to, i ? 0644 : 0755, err);
        mem_free(from);
        mem_free(to);
    }
    return status;
}

static int install_part(const char *root, const char *part, const char *except, struct err *err)
{
    char *from = mem_printf(PG_SYSTEM "/%s", part);
    char *to = mem_printf("%s/%s", root, part);
    int status = link_entries(from, to, except, err);

    mem_free(from);
    mem_free(to);
    return status;
}

static int install_programs(const char *root, struct err *err)
{
    static const char *const programs[] = { "postgres", "initdb" };
    char *bin = mem_printf("%s/" PG_BIN, root);
    int status = make_dirs(bin, err);

    for (size_t i = 0; !status && i < sizeof programs / sizeof programs[0]; i++) {
        char *from = mem_printf(PG_SYSTEM "/" PG_BIN "/%s", programs[i]);
        char *to = mem_printf("%s/%s", bin, programs[i]);
        struct stat old, now;
        if (stat(from, &now) < 0) {
            status = err_set(err, ERR_NOT_FOUND,
                             "%s is missing: install postgresql-" PG_VERSION_TEXT, from);
        } else if (stat(to, &old) < 0 || old.st_size != now.st_size ||
                   old.st_mtime < now.st_mtime) {
            status = copy_file(from, to, 0755, err);
        }
        mem_free(from);
        mem_free(to);
    }
    mem_free(bin);
    return status;
}

static int install(const struct dev_pg *pg, const char *root, struct err *err)
{
    int status = install_programs(root, err);

    if (!status) {
        status = install_part(root, PG_LIB, NULL, err);
    }
    if (!status) {
        status = install_part(root, PG_SHARE, "extension", err);
    }
    if (!status) {
        status = install_part(root, PG_SHARE "/extension", NULL, err);
    }
    return status ? status : install_extension(pg, root, err);
}

/* --- The server */

static char *pid_path(const struct dev_pg *pg)
{
    return mem_printf("%s/run/postgres.pid", pg->dir);
}

static bool server_is_running(const struct dev_pg *pg)
{
    char *path = pid_path(pg);
    bool is_running = process_is_running(path);

    mem_free(path);
    return is_running;
}

static char *log_path(const struct dev_pg *pg)
{
    return mem_printf("%s/log/postgres.log", pg->dir);
}

static int make_data(const struct dev_pg *pg, const char *root, struct err *err)
{
    char *data = mem_printf("%s/data", root);
    char *mark = mem_printf("%s/PG_VERSION", data);
    char *initdb = mem_printf("%s/" PG_BIN "/initdb", root);
    char *log = log_path(pg);
    int status = 0;

    if (access(mark, F_OK) == 0) {
        goto out;
    }
    dev_remove_tree(data); /* of an initdb that was interrupted */
    if (mkdir(data, 0700) < 0) {
        status = err_set(err, ERR_IO, "make %.200s: %s", data, strerror(errno));
        goto out;
    }
    status = give_to_user(data, err);
    if (!status) {
        char *argv[] = { initdb,  "-D",
                         data,    "-A",
                         "trust", "-E",
                         "UTF8",  "--locale=C.UTF-8",
                         "-N",    "--no-instructions",
                         "-U",    (char *)dev_pg_user(),
                         NULL };
        struct process_spec spec = { .log_path = log, .argv = argv, .user = switch_user() };
        status = process_run(&spec, err);
    }
out:
    mem_free(data);
    mem_free(mark);
    mem_free(initdb);
    mem_free(log);
    return status;
}

static int start_server(const struct dev_pg *pg, const char *root, struct err *err)
{
    char *program = mem_printf("%s/" PG_BIN "/postgres", root);
    char *data = mem_printf("%s/data", root);
    char *pid = pid_path(pg);
    char *log = log_path(pg);
    char *argv[] = { program,
                     "-D",
                     data,
                     "-k",
                     pg->temp,
                     "-c",
                     "listen_addresses=",
                     "-c",
                     "unix_socket_permissions=0700",
                     "-c",
                     "port=5432",
                     NULL };
    struct process_spec spec = {
        .pid_path = pid, .log_path = log, .argv = argv, .user = switch_user()
    };
    pid_t ignored;
    int status = process_start(&spec, &ignored, err);

    mem_free(program);
    mem_free(data);
    mem_free(pid);
    mem_free(log);
    return status;
}

static char *connection_url(const struct dev_pg *pg)
{
    return mem_printf("postgresql:///postgres?host=%s&port=5432&user=%s", pg->temp, dev_pg_user());
}

static int wait_for_server(const struct dev_pg *pg, struct err *err)
{
    char *url = connection_url(pg);
    long long deadline = process_now_ms() + PG_START_MS;
    int status = 0;

    while (PQping(url) != PQPING_OK && !status) {
        if (!server_is_running(pg)) {
            status =
                err_set(err, ERR_FAILED, "PostgreSQL ended; see %.200s/log/postgres.log", pg->dir);
        } else if (process_now_ms() > deadline) {
            status = err_set(err, ERR_TIMEOUT,
                             "PostgreSQL does not answer; see %.200s/log/postgres.log", pg->dir);
        } else {
            process_sleep_ms(50);
        }
    }
    mem_free(url);
    return status;
}

static int set_up_sql(const struct dev_pg *pg, struct err *err)
{
    char *url = connection_url(pg);
    char *log = mem_printf("%s/log/sql-setup.log", pg->dir);
    char *endpoints = mem_printf("CAIRN_ENDPOINTS=%s", pg->endpoints);
    char *environment[] = { endpoints, NULL };
    char *argv[] = { (char *)pg->program, "sql", "setup", url, NULL };
    struct process_spec spec = { .log_path = log, .argv = argv, .environment = environment };
    int status = process_run(&spec, err);

    mem_free(url);
    mem_free(log);
    mem_free(endpoints);
    return status;
}

int dev_pg_up(struct dev_pg *pg, struct err *err)
{
    int status = make_temp(pg, err);
    char *root = NULL;

    if (status) {
        return status;
    }
    root = pg_root(pg);
    status = install(pg, root, err);
    if (!status && !server_is_running(pg)) {
        status = make_data(pg, root, err);
        if (!status) {
            status = start_server(pg, root, err);
        }
    }
    if (!status) {
        status = wait_for_server(pg, err);
    }
    mem_free(root);
    return status ? status : set_up_sql(pg, err);
}

void dev_pg_down(const struct dev_pg *pg)
{
    char *path = pid_path(pg);

    process_stop(path, SIGINT, PG_STOP_MS); /* a fast shutdown */
    mem_free(path);
}

void dev_pg_destroy(struct dev_pg *pg)
{
    char *root = root_in_dir(pg);
    char *link = mem_printf("%s/pg", pg->dir);

    dev_pg_down(pg);
    dev_remove_tree(root);
    if (pg->temp && strncmp(pg->temp, "/tmp/cairn-dev-", 15) == 0) {
        dev_remove_tree(pg->temp);
    }
    unlink(link);
    mem_free(root);
    mem_free(link);
}
