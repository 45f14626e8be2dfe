# Cairn against its peers, side by side (bench/README.md).
BENCH_LOAD  := $(BUILD)/bench/load
BENCH_FLOOR := $(BUILD)/bench/floor

$(BENCH_LOAD): $(patsubst %,$(BUILD)/obj/bench/%.o,load load_redis load_etcd) $(BUILD)/obj/src/tools/histogram.o
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ -lnghttp2

$(BENCH_FLOOR): $(BUILD)/obj/bench/floor.o $(BUILD)/obj/src/tools/histogram.o
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ -llmdb

BENCH_SCAN := $(BUILD)/bench/scan
$(BENCH_SCAN): $(BUILD)/obj/bench/scan.o $(call links,$(CLIENT_LAYERS))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

.PHONY: deps-bench
deps-bench: ## install the peers that `make bench` compares with, and perf (apt; starts no service)
	@mk/deps.sh bench

BENCH_PROGRAMS := $(BENCH_LOAD) $(BENCH_FLOOR) $(BUILD)/t/shim.so
.PHONY: bench
bench: release $(BENCH_PROGRAMS) ## Cairn against etcd and Redis, in turn: writes bench/RESULTS.md (BENCH_FLAGS=…)
	@BUILD=$(BUILD) bench/run $(BENCH_FLAGS)

.PHONY: bench-quick
bench-quick: release $(BENCH_PROGRAMS) ## the same in under three minutes, into build/bench/quick
	@BUILD=$(BUILD) bench/run --quick $(BENCH_FLAGS)

.PHONY: bench-long
bench-long: release $(BENCH_PROGRAMS) ## ten million keys against one million, into build/bench/long
	@BUILD=$(BUILD) bench/run --long $(BENCH_FLAGS)

# What the hot paths take, in instructions (bench/hotpath.c says how they are driven).
HOTPATH := $(BUILD)/bench/hotpath
$(BUILD)/obj/bench/hotpath.o: CPPFLAGS += -It

HOTPATH_SOURCES := bench/hotpath.c $(wildcard t/sim/disk*.c) $(patsubst %,t/sim/%.c,caller env_sim network schedule)
$(HOTPATH): $(HOTPATH_SOURCES:%.c=$(BUILD)/obj/%.o) $(call links,$(NEEDS_sim))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)
check: $(HOTPATH)

.PHONY: hotpath
hotpath: $(HOTPATH) ## count the hot paths' instructions: RENEW="why" writes bench/hotpath.tsv anew
	@BUILD=$(BUILD) bench/hotpath $(if $(RENEW),--renew '$(RENEW)')

.PHONY: flame
flame: $(BINARIES) ## flame graphs of put-50 and get-50 by Linux perf, into build/bench (FLAME_FLAGS="--rows put-200")
	@BUILD=$(BUILD) bench/flame $(FLAME_FLAGS)
