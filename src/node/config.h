/* The daemon's configuration: defaults < file (--config) < environment (CAIRN_…) < command line,
 * all from tbl/params.def. */
#ifndef NODE_CONFIG_H
#define NODE_CONFIG_H

#include "base/err.h"
#include "base/logger.h"
#include "env/env.h"
#include "node/node.h"

/* One index per option, in the table's order. */
enum config_param {
#define PARAM(field, name, kind, default_, min, max, when, argument, help) CONFIG_##field,
#include "tbl/params.def"
    CONFIG_PARAMS
};

enum config_source { CONFIG_DEFAULT, CONFIG_FILE, CONFIG_ENVIRONMENT, CONFIG_COMMAND_LINE };

/* What a value of each kind is in struct config. TEXT is NULL when not given and without default.
 */
#define CONFIG_TYPE_TEXT const char *
#define CONFIG_TYPE_FLAG bool
#define CONFIG_TYPE_NUMBER uint64_t
#define CONFIG_TYPE_BYTES uint64_t
#define CONFIG_TYPE_MS uint64_t
#define CONFIG_TYPE_LEVEL enum logger_level

struct config {
#define PARAM(field, name, kind, default_, min, max, when, argument, help) CONFIG_TYPE_##kind field;
#include "tbl/params.def"
    /* As they were given, "" when not; owned. TEXT fields point into them. */
    char *texts[CONFIG_PARAMS];
    enum config_source sources[CONFIG_PARAMS];
};

/* What the command line asks for besides running. */
enum config_action { CONFIG_RUN, CONFIG_CHECK, CONFIG_HELP, CONFIG_VERSION };

/* Reads everything and checks it as a whole (not with CONFIG_HELP and CONFIG_VERSION, which win
 * over errors behind them). environment: NULL-terminated "NAME=value" strings, as environ(7); names
 * that are no option's are other programs' business. ERR_USAGE with the option, its source and, for
 * an unknown one, the nearest name; ERR_UNSUPPORTED for a surface to come; errors of reading the
 * file. On failure *out needs no fini. */
int config_load(struct env *env, int argc, char *const *argv, char *const *environment,
                struct config *out, enum config_action *action, struct err *err);
void config_fini(struct config *config);
/* A copy that needs a config_fini of its own. */
void config_copy(const struct config *config, struct config *out);

/* What node_start takes; strings borrow from config. on_stopped and ctx stay NULL. */
void config_to_node(const struct config *config, struct node_config *out);
/* With --in-process: the configuration of node `number` (from 1), a copy that needs config_fini. */
void config_of_member(const struct config *config, unsigned number, struct config *out);
/* Takes over what may change live, and names what differs and may not: "name, name" in *rest
 * (empty: nothing). */
void config_reload(struct config *config, const struct config *newer, struct buf *rest);

/* The text of --help, and of --check-config: one `name = value  # source` line each. */
void config_print_help(struct buf *out);
void config_print(const struct config *config, struct buf *out);

#endif
