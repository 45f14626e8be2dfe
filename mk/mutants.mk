# Planted bugs that the simulator must find (t/sim/mutants/README.md). MUTANT=NNN[,NNN…] picks some, MUTANT_SECONDS is the budget of
# each in processor time, JOBS how many run at a time. Not part of make check: that only sees
# whether the patches still apply.
MUTANT_SECONDS ?= 60
JOBS           ?= 1
.PHONY: mutants
mutants: $(BUILD)/t/sim ## plant each bug of t/sim/mutants and let the simulator find it: MUTANT=012, MUTANT_SECONDS=60, JOBS=2
	@SAN='$(SAN)' t/sim/mutants/run.pl --build '$(BUILD)' --only '$(MUTANT)' \
	  --seconds $(MUTANT_SECONDS) --jobs $(JOBS) --sim-flags '$(SIM_FLAGS)'
