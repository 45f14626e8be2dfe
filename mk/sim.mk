# The simulator: whole clusters in one process (t/sim/README.md).
SIM_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out t/sim/linear_main.c,$(wildcard t/sim/*.c)))
$(BUILD)/obj/t/sim/%.o: CPPFLAGS += -It

SIM_BINARY := $(BUILD)/t/sim
$(SIM_BINARY): $(SIM_OBJECTS) $(call links,$(NEEDS_sim))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $(SIM_OBJECTS) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

# The same checker for histories of real processes (t/sim/linear_main.c says how).
LINEAR_BINARY := $(BUILD)/t/linear
$(LINEAR_BINARY): $(BUILD)/obj/t/sim/linear_main.o $(BUILD)/obj/t/sim/linear.o $(call links,base)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

# SEED=n [TRACE=1] replays one run; SEEDS=n, SECONDS=n say how much, JOBS=n how many runs at a time (else one a core); SIM_FLAGS=… passes
# anything else.
.PHONY: sim
sim: $(SIM_BINARY) ## simulate clusters under faults: SEEDS=200, SECONDS=60, SEED=n TRACE=1
	@$(SIM_BINARY) $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace) $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(if $(filter command% environment,$(origin JOBS)),--jobs $(JOBS)) $(SIM_FLAGS)

# The same seeds plain and under the sanitizers, leaks included, each twice: clean, and with the same traces. FIRST=n begins there.
SANITIZED := $(BUILD)/san-address-undefined
SANITIZED_SEEDS = $(if $(SEEDS),$(SEEDS),20)
.PHONY: sim-sanitized
sim-sanitized: $(SIM_BINARY) ## the simulator under address and undefined sanitizers, traces compared with the plain build's: SEEDS=20
	@$(MAKE) --no-print-directory SAN=address,undefined BUILD=$(SANITIZED) $(SANITIZED)/t/sim
	@t/sim/compare.pl --seeds $(SANITIZED_SEEDS) $(if $(FIRST),--first $(FIRST)) $(SIM_FLAGS) $(SIM_BINARY) $(SANITIZED)/t/sim
