# Real processes under faults, longer than make check allows.
KILLS ?= 300
.PHONY: kills
kills: all $(TEST_PROGRAMS) ## kill primaries KILLS=300 times; prints how long their partitions had none, last the verdict
	@KILLS=$(KILLS) BUILD=$(abspath $(BUILD)) perl -It/lib t/260_failover.t 2>&1 | tee $(BUILD)/kills.log | grep -v '^1\.\.'
	@line=$$(grep -o 'without a primary.*' $(BUILD)/kills.log | tail -1); \
	if grep -q '^not ok' $(BUILD)/kills.log; then echo "FAILED: $$line"; exit 1; else echo "passed: $$line"; fi

# The fault tests whose histories are judged, each for that long.
FAULTS_SECONDS ?= 60
FAULT_TESTS := $(sort $(wildcard t/26[1-9]_*.t))
.PHONY: faults
faults: all $(TEST_PROGRAMS) $(LINEAR_BINARY) ## faults on real processes, FAULTS_SECONDS=60 each, histories judged
	@FAULTS_SECONDS=$(FAULTS_SECONDS) BUILD=$(abspath $(BUILD)) prove -It/lib $(PROVE_FLAGS) $(FAULT_TESTS)

# Preloaded into daemons by tests (t/lib/shim.c): clock jumps, a slow disk.
SHIM := $(BUILD)/t/shim.so
$(SHIM): $(BUILD)/obj/t/lib/shim.o
	@mkdir -p $(@D)
	@$(CC) $(LDFLAGS) -shared -o $@ $< -ldl
check faults: $(SHIM)
