/* What the files of `cairn dev` share (dev.c says how it works); for nobody else. Paths and lists are the caller's, to be freed with
 * mem_free; errors are filled in where an err is given. */
#ifndef TOOLS_DEV_PRIVATE_H
#define TOOLS_DEV_PRIVATE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct dev {
    char *dir; /* absolute */
    char *bin; /* the folder of this program */
    unsigned nodes, port_base;
    bool in_process;
    char *pg_temp;
    bool exists; /* DIR/state was there */
    int lock;
};

/* --- dev_folder.c */

/* Of a file in the folder. */
char *dev_path(const struct dev *dev, const char *name);
char *dev_node_pid_path(const struct dev *dev, unsigned number);
char *dev_node_log_path(const struct dev *dev, unsigned number);
/* Processes that host nodes: one for all, or one each. */
unsigned dev_process_count(const struct dev *dev);
/* For clients: 127.0.0.1:7401,… */
char *dev_endpoints(const struct dev *dev);
/* For nodes: n1=127.0.0.1:7401,… */
char *dev_bootstrap(const struct dev *dev);
/* Reads DIR/state, if it is there (dev->exists). ERR_FORMAT. */
int dev_state_read(struct dev *dev, struct err *err);
int dev_state_write(const struct dev *dev, struct err *err);
/* Writes DIR/env. */
int dev_env_write(const struct dev *dev, struct err *err);
/* A folder that is there already is fine. */
int dev_dir_make(const char *path, mode_t mode, struct err *err);
int dev_make_folders(const struct dev *dev, struct err *err);
/* Opens DIR, made when `make`; ERR_NOT_FOUND when there is no cluster in it. Ends with dev_fini, also after a failure. */
int dev_open(struct dev *dev, const char *dir, bool make, struct err *err);
/* Waits for it; held until dev_fini. */
int dev_take_lock(struct dev *dev, struct err *err);
void dev_fini(struct dev *dev);
bool dev_port_is_free(unsigned port);
/* For a new cluster: the first free range from the wanted base on. */
int dev_choose_ports(struct dev *dev, struct err *err);

/* --- dev_nodes.c */

/* The last lines of a log, for an error. */
void dev_print_log_end(const char *path);
/* Starts the processes from..to that don't run, and waits until all that it started are ready. */
int dev_nodes_start(const struct dev *dev, unsigned from, unsigned to, struct err *err);
/* A read through the client library: what a user would see. */
int dev_cluster_check(const struct dev *dev, struct err *err);
void dev_nodes_stop(const struct dev *dev);

/* --- dev_mount.c */

/* Asked of /proc, never of the mount itself: that one may hang. */
bool dev_mount_is_present(const char *path);
int dev_mount_up(const struct dev *dev, struct err *err);
void dev_mount_down(const struct dev *dev);

#endif
