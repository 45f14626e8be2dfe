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
CPPFLAGS = -D_GNU_SOURCE -Isrc -I$(BUILD) $(EXTRA_CPPFLAGS)
CFLAGS   = -std=gnu11 $(OPT) -g -pthread -fPIC -msse4.2 -MMD -MP -Wall -Wextra -Wshadow -Wmissing-prototypes \
           -Wvla -Wno-unused-parameter -Werror $(SANFLAGS)
LDFLAGS  = -pthread $(SANFLAGS)

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
NEEDS_tools  := client cluster wire env proto base
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
	@$(CC) $(CPPFLAGS) -std=gnu11 $(OPT) -g -fPIC $(SANFLAGS) -c -o $@ $<

# --- Objects and archives, one archive a layer
$(BUILD)/obj/%.o: %.c | $(PROTO_H)
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

define archive_rule
$(call ARCHIVE,$(1)): $(if $(filter proto,$(1)),$(PROTOS:%=$(BUILD)/obj/proto/%.o),$(call objects,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	@ar rcs $$@ $$^
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
	  -Wl,--start-group $(filter-out $(call ARCHIVE,tools),$(filter %.a,$^)) -Wl,--end-group $(LIBS) -lpq

FUSE_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard fuse/*.c))
$(BUILD)/obj/fuse/%.o: CPPFLAGS += $(shell pkg-config --cflags fuse3)
$(BUILD)/bin/cairn-fuse: $(FUSE_OBJECTS) $(call links,$(NEEDS_fuse))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $(FUSE_OBJECTS) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS) -lfuse3

$(BUILD)/obj/src/tools/%.o: CPPFLAGS += -I$(shell $(PG_CONFIG) --includedir 2>/dev/null)

# The client library as one archive, for the extension and for others.
CLIENT_LAYERS := client $(NEEDS_client)
$(BUILD)/lib/libcairn.a: $(call links,$(CLIENT_LAYERS))
	@rm -f $@ && rm -rf $(BUILD)/obj/libcairn && mkdir -p $(BUILD)/obj/libcairn
	@for a in $^; do (cd $(BUILD)/obj/libcairn && ar x $(CURDIR)/$$a); done
	@ar rcs $@ $(BUILD)/obj/libcairn/*.o

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

.PHONY: unit
unit: $(UNIT_TESTS) ## run the unit tests (cmocka, TAP)
	@CMOCKA_MESSAGE_OUTPUT=TAP prove --exec '' $(UNIT_TESTS)

include $(wildcard mk/*.mk)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z -]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | awk -F'\t' '{printf "%-14s %s\n", $$1, $$2}'

.PHONY: clean
clean: ## remove build/
	rm -rf build

.SECONDARY:
-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
