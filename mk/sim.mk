# The simulator: whole clusters in one process (t/sim/README.md).
SIM_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out t/sim/linear_main.c,$(wildcard t/sim/*.c)))
$(BUILD)/obj/t/sim/%.o: CPPFLAGS += -It

SIM_BINARY := $(BUILD)/t/sim
$(SIM_BINARY): $(SIM_OBJECTS) $(call links,$(NEEDS_sim))
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $(SIM_OBJECTS) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

# The same sources compiled as one program, with a profile of what runs do: for long campaigns. The same traces, a tenth cheaper, but each build
# takes a minute of two cores. (Warnings are the plain build's business: over all files gcc guesses more of them.)
SIM_WHOLE := $(BUILD)/t/sim-whole
WHOLE_CFLAGS = $(filter-out -fPIC -fno-semantic-interposition -g -MMD -MP,$(CFLAGS)) -fno-pie -flto -w $(STAGE_FLAGS)
WHOLE_OBJECTS := $(patsubst $(BUILD)/obj/%,$(BUILD)/whole/%,$(SIM_OBJECTS) $(PROTOS:%=$(BUILD)/obj/proto/%.o) \
                   $(foreach layer,$(filter-out proto,$(NEEDS_sim)),$(call objects,$(layer))))

$(BUILD)/whole/proto/%.o: $(BUILD)/proto/%.pb-c.c
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(WHOLE_CFLAGS) -c -o $@ $<

$(BUILD)/whole/%.o: %.c | $(PROTO_H)
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) -It $(WHOLE_CFLAGS) -c -o $@ $<

$(BUILD)/whole/sim: $(WHOLE_OBJECTS)
	@$(CC) $(WHOLE_CFLAGS) -flto=2 -no-pie $(LDFLAGS) -o $@ $^ $(LIBS)

$(SIM_WHOLE): $(SIM_BINARY)
	@rm -rf $(BUILD)/whole
	@echo "  WHOLE   $@ (to learn where the time goes)"
	@$(MAKE) --no-print-directory STAGE_FLAGS=-fprofile-generate $(BUILD)/whole/sim
	@$(BUILD)/whole/sim --seeds 16 --first 5000 >$(BUILD)/whole/learning
	@find $(BUILD)/whole -name '*.o' -delete; rm $(BUILD)/whole/sim
	@echo "  WHOLE   $@"
	@$(MAKE) --no-print-directory STAGE_FLAGS="-fprofile-use -fprofile-partial-training" $(BUILD)/whole/sim
	@mv $(BUILD)/whole/sim $@

# SEEDS=n runs of at least 60 simulated seconds each, with trouble for 50 of them. FIRST=n begins there.
CAMPAIGN_SEEDS = $(if $(SEEDS),$(SEEDS),10000)
.PHONY: campaign
campaign: $(SIM_WHOLE) ## 10,000 long runs, an hour of two cores: SEEDS=, FIRST=1000000
	@$(SIM_WHOLE) --seeds $(CAMPAIGN_SEEDS) --first $(if $(FIRST),$(FIRST),1000000) --trouble 50 --least 60 $(SIM_FLAGS)

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
