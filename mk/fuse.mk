# The mount's tests against the in-memory double of the client library (t/lib/fake_cairn.c).

$(BUILD)/obj/t/lib/fake_cairn.o: CPPFLAGS += -It/lib

FAKE_FUSE_TESTS := $(patsubst t/unit/fuse/%.c,$(BUILD)/t/fuse/%,$(filter-out %/test_mapping.c,$(wildcard t/unit/fuse/test_*.c)))
$(FAKE_FUSE_TESTS): $(BUILD)/obj/t/lib/fake_cairn.o
$(BUILD)/obj/t/unit/fuse/%.o: CPPFLAGS += -It/lib

# A mount of nothing but memory, to try the front end by hand.
$(BUILD)/t/fuse/cairn-fuse-fake: $(FUSE_OBJECTS) $(BUILD)/obj/t/lib/fake_cairn.o
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ -lfuse3
