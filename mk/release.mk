# The programs as they are to be installed and measured: each compiled as one, with a profile of what runs do (docs/decisions/014-release-build.md).
# The development build's rules in folders of their own, twice: STAGE=learn counts how often each branch is taken while bench/hotpath drives
# three nodes and their clients, STAGE=use compiles by that. What it doesn't drive (env_uv*.c, sockets.c, tools, fuse) is optimised as ever.
# (Warnings are the plain build's business: over all files gcc guesses more of them.)
STAGE_CFLAGS_learn  := -flto -fprofile-generate -w
STAGE_LDFLAGS_learn := -flto=2 -fprofile-generate -w
STAGE_CFLAGS_use    := -flto -fprofile-use -fprofile-partial-training -fno-plt -w
STAGE_LDFLAGS_use    = -flto=2 $(OPT) $(MACHINE) -fprofile-use -fprofile-partial-training -fno-plt -Wl,-z,now -w
STAGE_CFLAGS  = $(STAGE_CFLAGS_$(STAGE))
STAGE_LDFLAGS = $(STAGE_LDFLAGS_$(STAGE))

# What drives and simulates neither learns nor melts into what is driven: bench/hotpath can still tell them apart.
$(BUILD)/obj/t/%.o $(BUILD)/obj/bench/%.o: STAGE_CFLAGS =

RELEASE      := $(BUILD)/release
LEARN        := $(RELEASE)/learn
RELEASE_MAKE  = $(MAKE) --no-print-directory AR=gcc-ar
RELEASE_SOURCES := $(shell find Makefile mk/release.mk src proto fuse pgext -type f) $(HOTPATH_SOURCES) $(wildcard t/sim/*.h)

# A profile notes the alignment of what is copied, and so addresses: where the kernel allows it, the same ones each time, for the same build.
SAME_ADDRESSES = $(shell setarch -R true 2>/dev/null && echo setarch -R)

# All or nothing: one changed file changes what becomes of others.
$(RELEASE)/learnt: $(RELEASE_SOURCES)
	@rm -rf $(RELEASE)/bin $(RELEASE)/bench/hotpath $(RELEASE)/bench/scan $(RELEASE)/lib $(RELEASE)/obj $(RELEASE)/pgext $(LEARN)
	@echo "  LEARN   $@"
	@$(RELEASE_MAKE) BUILD=$(LEARN) STAGE=learn $(LEARN)/bench/hotpath
	@timeout 300 $(SAME_ADDRESSES) $(LEARN)/bench/hotpath --train
	@cd $(LEARN) && find obj -name '*.gcda' -exec cp --parents -t .. {} +
	@touch $@

.PHONY: release
release: $(RELEASE)/learnt ## the optimised build, which `make install` installs and `make bench` measures, into build/release: minutes
	@$(RELEASE_MAKE) BUILD=$(RELEASE) STAGE=use all $(RELEASE)/bench/hotpath $(RELEASE)/bench/scan

# The client library for others who do not melt: one object with the public names alone.
ifeq ($(STAGE),use)
$(BUILD)/lib/libcairn.a: $(call links,$(CLIENT_LAYERS))
	@echo "  LINK    $@"
	@$(CC) $(STAGE_LDFLAGS) -r -flinker-output=nolto-rel -nostdlib -o $(@D)/libcairn.o \
	  $$(gcc-nm -g --defined-only $(call ARCHIVE,client) | awk '$$3 ~ /^cairn_/ { print "-Wl,-u," $$3 }') -Wl,--start-group $^ -Wl,--end-group
	@objcopy --wildcard --keep-global-symbol='cairn_*' $(@D)/libcairn.o
	@rm -f $@
	@$(AR) rcs $@ $(@D)/libcairn.o
endif

# The same tests that the development build passes, on these programs: one node, three, bad input, the mount, SQL, kills.
RELEASE_TESTS := $(foreach number,010 030 100 130 200 500 600,$(wildcard t/$(number)_*.t))
.PHONY: release-check
release-check: release $(TEST_PROGRAMS) ## the release build, tested
	@mkdir -p $(RELEASE)/t && cp $(TEST_PROGRAMS) $(RELEASE)/t
	@BUILD=$(abspath $(RELEASE)) timeout 1500 prove -It/lib $(PROVE_FLAGS) $(RELEASE_TESTS)
