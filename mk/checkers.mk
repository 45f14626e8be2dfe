# The unit tests under valgrind's memcheck, and what has threads under the thread sanitizer. (Everything under the other sanitizers:
# make SAN=address,undefined check.)

# All but test_store_pages, in which LMDB itself breaks its heap on rubbish pages, in processes that are there to be lost. The random
# tests make fewer rounds.
VALGRIND_LEAVES_OUT := %/test_store_pages
VALGRIND_TESTS ?= $(filter-out $(VALGRIND_LEAVES_OUT),$(UNIT_TESTS))
.PHONY: valgrind
valgrind: export LOG_SEEDS ?= 20
valgrind: export LOG_DAMAGE_SEEDS ?= 20
valgrind: export MODEL_SEEDS ?= 40
valgrind: $(UNIT_TESTS) ## run the unit tests under valgrind's memcheck: VALGRIND_TESTS="build/t/raft/test_log …"
	@CMOCKA_MESSAGE_OUTPUT=TAP prove --exec 'valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite' \
	  $(VALGRIND_TESTS)

THREAD_TESTS := env/test_env_uv raft/test_log_uv store/test_store_uv
.PHONY: threads
threads: ## run the tests of what has threads under the thread sanitizer
	@$(MAKE) --no-print-directory SAN=thread $(THREAD_TESTS:%=build/san-thread/t/%)
	@CMOCKA_MESSAGE_OUTPUT=TAP prove --exec '' $(THREAD_TESTS:%=build/san-thread/t/%)
