/* `cairn inspect FILE…`: prints log segments and votes files; reads only. */
#ifndef TOOLS_INSPECT_H
#define TOOLS_INSPECT_H

/* argv[0] is "inspect", then files or folders of a log. Returns the exit code: 1 when a file is damaged or can't be read. */
int inspect_main(int argc, char **argv);

#endif
