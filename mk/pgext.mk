# The extension's own tests.
.PHONY: regress
regress: all ## run sql/regress (pg_regress) against a private PostgreSQL and a standalone cairnd
	@BUILD=$(abspath $(BUILD)) prove -v t/610_regress.t
