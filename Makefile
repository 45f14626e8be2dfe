# Cairn. `make help` lists the targets. Nothing is written outside build/, .cairn/ and one temporary folder.

BUILD   ?= build
PREFIX  ?= /usr/local
CC      ?= gcc
SAN     ?=
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config) pg_config)

comma := ,

ifneq ($(SAN),)
BUILD   := build/san-$(subst $(comma),-,$(SAN))
SANFLAGS := -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif

OPT     ?= -O2
# gcc clears structures of some hundred bytes by `rep stos` and, with a profile, copies values by `rep movs`: 16 ns at least, 50 to 500 where
# the target is not aligned. Loops of vectors and libc's functions take 3 to 15 (docs/decisions/019-copies.md).
MACHINE := -msse4.2
ifeq ($(findstring clang,$(CC)),)
MACHINE += -mmemcpy-strategy=libcall:-1:noalign -mmemset-strategy=vector_loop:512:noalign,libcall:-1:noalign
endif
CPPFLAGS = -D_GNU_SOURCE -Isrc -I$(BUILD) $(EXTRA_CPPFLAGS)
CFLAGS   = -std=gnu11 $(OPT) -g -pthread -fPIC -fno-semantic-interposition $(MACHINE) -MMD -MP -Wall -Wextra -Wshadow -Wmissing-prototypes \
           -Wvla -Wno-unused-parameter -Werror $(SANFLAGS) $(STAGE_CFLAGS)
LDFLAGS  = -pthread $(SANFLAGS) $(STAGE_LDFLAGS)

# --- Layers. A folder may include itself and what stands to its right; make lint checks it, the links below follow it.
LAYERS       := base proto env wire cluster store raft node server client tools
NEEDS_base   :=
NEEDS_env    := base
NEEDS_wire   := env proto base
NEEDS_cluster:= wire env proto base
NEEDS_store  := cluster wire env proto base
NEEDS_raft   := wire env proto base
NEEDS_node   := raft store cluster wire env proto base
NEEDS_server := node raft store cluster wire env proto base
NEEDS_client := cluster wire env proto base
NEEDS_tools  := client raft cluster wire env proto base
NEEDS_fuse   := client cluster wire env proto base
NEEDS_sim    := server node raft store cluster client wire env proto base

LIBS := -luv -llmdb -lprotobuf-c -lxxhash

ARCHIVE = $(BUILD)/lib/lib$(1).a
objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard src/$(1)/*.c))

PROTOS  := $(patsubst proto/%.proto,%,$(wildcard proto/*.proto))
PROTO_C := $(PROTOS:%=$(BUILD)/proto/%.pb-c.c)
PROTO_H := $(PROTOS:%=$(BUILD)/proto/%.pb-c.h)

BINARIES := $(BUILD)/bin/cairnd $(BUILD)/bin/cairn $(BUILD)/bin/cairn-fuse

.PHONY: all
all: $(BINARIES) $(BUILD)/lib/libcairn.a pgext ## build everything into build/

# --- Generated protobuf code
$(BUILD)/proto/%.pb-c.c $(BUILD)/proto/%.pb-c.h: proto/%.proto
	@mkdir -p $(BUILD)/proto
	@echo "  PROTOC  $<"
	@protoc-c --proto_path=proto --c_out=$(BUILD)/proto $<

$(BUILD)/obj/proto/%.o: $(BUILD)/proto/%.pb-c.c
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) -std=gnu11 $(OPT) -g -fPIC $(MACHINE) $(SANFLAGS) $(STAGE_CFLAGS) -c -o $@ $<

# --- Objects and archives, one archive a layer
$(BUILD)/obj/%.o: %.c | $(PROTO_H)
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

define archive_rule
$(call ARCHIVE,$(1)): $(if $(filter proto,$(1)),$(PROTOS:%=$(BUILD)/obj/proto/%.o),$(call objects,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	@$(AR) rcs $$@ $$^
endef
$(foreach layer,$(LAYERS),$(eval $(call archive_rule,$(layer))))

links = $(foreach layer,$(1),$(call ARCHIVE,$(layer)))

# --- Programs
$(BUILD)/bin/cairnd: $(BUILD)/obj/src/daemon.o $(call links,server $(NEEDS_server))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

$(BUILD)/bin/cairn: $(call links,tools $(NEEDS_tools))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ -Wl,--whole-archive $(call ARCHIVE,tools) -Wl,--no-whole-archive \
	  -Wl,--start-group $(filter-out $(call ARCHIVE,tools),$(filter %.a,$^)) -Wl,--end-group $(LIBS) -lpq -ljansson -lm

FUSE_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard fuse/*.c))
$(BUILD)/obj/fuse/%.o: CPPFLAGS += $(shell pkg-config --cflags fuse3)
$(BUILD)/bin/cairn-fuse: $(FUSE_OBJECTS) $(call links,$(NEEDS_fuse))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $(FUSE_OBJECTS) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS) -lfuse3

$(BUILD)/obj/src/tools/%.o: CPPFLAGS += -I$(shell $(PG_CONFIG) --includedir 2>/dev/null)

# The client library as one archive, for the extension and for others.
CLIENT_LAYERS := client $(NEEDS_client)
# (ar's script keeps members of the same name apart; extracting them would lose one. The release build's is melted: mk/release.mk.)
ifneq ($(STAGE),use)
$(BUILD)/lib/libcairn.a: $(call links,$(CLIENT_LAYERS))
	@rm -f $@
	@{ echo "create $@"; for a in $^; do echo "addlib $$a"; done; echo save; echo end; } | ar -M
endif

.PHONY: pgext
pgext: $(BUILD)/lib/libcairn.a ## build the PostgreSQL extension into build/pgext
	@$(MAKE) --no-print-directory -C pgext BUILD=$(abspath $(BUILD)) PG_CONFIG=$(PG_CONFIG)

# --- Tests: t/unit/LAYER/test_*.c links the layer's archive and what stands to its right.
UNIT_SOURCES := $(wildcard t/unit/*/test_*.c)
UNIT_TESTS   := $(UNIT_SOURCES:t/unit/%.c=$(BUILD)/t/%)

define unit_rule
$(BUILD)/t/$(1)/%: $(BUILD)/obj/t/unit/$(1)/%.o $(if $(filter fuse,$(1)),$(filter-out %/mount.o,$(FUSE_OBJECTS)),) \
                   $(call links,$(filter $(1),$(LAYERS)) $(NEEDS_$(1)))
	@mkdir -p $$(@D)
	@echo "  LINK    $$@"
	@$$(CC) $$(LDFLAGS) -o $$@ $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $$(LIBS) -lcmocka \
	  $(if $(filter fuse,$(1)),-lfuse3,)
endef
$(foreach layer,$(LAYERS) fuse,$(eval $(call unit_rule,$(layer))))
$(BUILD)/obj/t/unit/fuse/%.o: CPPFLAGS += $(shell pkg-config --cflags fuse3)

# Programs that system tests use, over the client library alone.
CLIENT_PROGRAMS := $(BUILD)/t/writer $(BUILD)/t/failover $(BUILD)/t/history
$(CLIENT_PROGRAMS): $(BUILD)/t/%: $(BUILD)/obj/t/lib/%.o $(call links,$(CLIENT_LAYERS))
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

# One that spoils stores.
$(BUILD)/t/forget: $(BUILD)/obj/t/lib/forget.o $(call links,store $(NEEDS_store))
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

TEST_PROGRAMS := $(CLIENT_PROGRAMS) $(BUILD)/t/forget

.PHONY: unit
unit: $(UNIT_TESTS) ## run the unit tests (cmocka, TAP)
	@CMOCKA_MESSAGE_OUTPUT=TAP prove --exec '' $(UNIT_TESTS)

include $(wildcard mk/*.mk)

SYSTEM_TESTS := $(sort $(wildcard t/[0-9]*.t))
PROVE_FLAGS  ?=

.PHONY: check
check: all $(UNIT_TESTS) $(TEST_PROGRAMS) $(SIM_BINARY) $(LINEAR_BINARY) ## build, then all tests: unit (cmocka) and system (Perl), by prove
	@CMOCKA_MESSAGE_OUTPUT=TAP BUILD=$(abspath $(BUILD)) timeout 1500 prove -It/lib $(PROVE_FLAGS) $(UNIT_TESTS) $(SYSTEM_TESTS)

.PHONY: lint
lint: all ## check layers, owners of libraries, and that nothing but env/ reaches the outside world
	@BUILD=$(abspath $(BUILD)) prove -It/lib t/001_lint.t

.PHONY: fmt
fmt: ## format all C sources
	clang-format -i $(shell git ls-files '*.c')

# --- Trying it
.PHONY: deps
deps: ## install what is missing (apt; prints its line first)
	@mk/deps.sh

.PHONY: run
run: ## install what is missing, build, start a cluster with mount and PostgreSQL, and take the tour
	@mk/deps.sh
	@$(MAKE) --no-print-directory all
	@mk/tour.sh $(TOUR_DIR)

TOUR_DIR ?= .cairn

.PHONY: stop
stop: ## end what `make run` started; the data stays
	@$(BUILD)/bin/cairn dev down --dir $(TOUR_DIR)

.PHONY: install
install: release ## install the release build under DESTDIR and PREFIX; the extension goes where pg_config says
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include $(DESTDIR)/sbin
	install -m 755 $(BINARIES:$(BUILD)/%=$(RELEASE)/%) $(DESTDIR)$(PREFIX)/bin
	ln -sf $(PREFIX)/bin/cairn-fuse $(DESTDIR)/sbin/mount.cairn
	ln -sf $(PREFIX)/bin/cairn-fuse $(DESTDIR)/sbin/mount.fuse.cairn
	install -m 644 src/client/cairn.h $(DESTDIR)$(PREFIX)/include/cairn.h
	install -m 644 $(RELEASE)/lib/libcairn.a $(DESTDIR)$(PREFIX)/lib
	printf 'prefix=$(PREFIX)\nName: cairn\nDescription: client library of Cairn\nVersion: 0.1.0\nLibs: -L$${prefix}/lib -lcairn -lprotobuf-c -lxxhash\nCflags: -I$${prefix}/include\n' \
	  > $(DESTDIR)$(PREFIX)/lib/pkgconfig/cairn.pc
	install -d $(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir) $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension
	install -m 755 $(RELEASE)/pgext/cairn_fdw.so $(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)
	install -m 644 $(RELEASE)/pgext/cairn_fdw.control $(RELEASE)/pgext/cairn_fdw--1.0.sql $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension

# --- Fuzzing (clang's libFuzzer). The corpus of past findings runs in make check through the unit tests.
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: $(PROTO_C) ## run each fuzz target for FUZZ_SECONDS
	@mk/deps.sh fuzz
	@for target in $(patsubst t/fuzz/%.c,%,$(wildcard t/fuzz/fuzz_*.c)); do \
	  mkdir -p $(BUILD)/fuzz/corpus-$$target && \
	  clang $(CPPFLAGS) -std=gnu11 -O1 -g -msse4.2 -fsanitize=fuzzer,address,undefined -o $(BUILD)/fuzz/$$target \
	    t/fuzz/$$target.c $(wildcard src/base/*.c) src/wire/frame.c src/wire/gets_page.c $(wildcard src/raft/log*.c) -lxxhash -lprotobuf-c && \
	  $(BUILD)/fuzz/$$target -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/corpus-$$target || exit 1; \
	done

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z -]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | awk -F'\t' '{printf "%-14s %s\n", $$1, $$2}'

.PHONY: clean
clean: ## remove build/
	rm -rf build

.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
