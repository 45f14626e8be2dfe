/* `cairn dev`: local clusters for development, tests and the tour. */
#ifndef TOOLS_DEV_H
#define TOOLS_DEV_H

/* argv[0] is "dev", argv[1] the command: up, down, status, destroy, kill, start, pause, resume. Returns the exit code; errors were printed. */
int dev_main(int argc, char **argv);

#endif
