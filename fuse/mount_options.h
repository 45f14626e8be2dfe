/* The command line of cairn-fuse, as people, fstab and mount(8) write it. */
#ifndef FUSE_MOUNT_OPTIONS_H
#define FUSE_MOUNT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "mapping.h"

enum { MOUNT_OPTIONS_TEXT_MAX = 4096, MOUNT_OPTIONS_ERROR_MAX = 256 };

struct mount_options {
    char source[MOUNT_OPTIONS_TEXT_MAX];    /* as given; "" when it wasn't */
    char endpoints[MOUNT_OPTIONS_TEXT_MAX]; /* "" for the default */
    struct mapping mapping;                 /* the prefix of SOURCE, with '/' behind */
    const char *mountpoint;
    char kernel[MOUNT_OPTIONS_TEXT_MAX]; /* options for the kernel and fusermount, each with a comma
                                            before it */
    bool is_foreground, is_fake, is_help, is_version, is_debug;
    bool has_uid, has_gid, has_umask;
    uid_t uid;
    gid_t gid;
    mode_t umask;
    uint32_t timeout_ms;
};

/* False: a text is in error (MOUNT_OPTIONS_ERROR_MAX bytes). Called as mount.SOMETHING, -f means
 * "fake", as mount(8) uses it; otherwise foreground. */
bool mount_options_parse(int argc, char *const *argv, struct mount_options *out, char *error);

extern const char mount_options_usage[];

#endif
