\echo Use "CREATE EXTENSION cairn_fdw" to load this file. \quit

CREATE FUNCTION cairn_fdw_handler() RETURNS fdw_handler
    LANGUAGE C STRICT AS 'MODULE_PATHNAME';

CREATE FUNCTION cairn_fdw_validator(text[], oid) RETURNS void
    LANGUAGE C STRICT AS 'MODULE_PATHNAME';

CREATE FOREIGN DATA WRAPPER cairn_fdw
    HANDLER cairn_fdw_handler
    VALIDATOR cairn_fdw_validator;

COMMENT ON FOREIGN DATA WRAPPER cairn_fdw IS 'tables over the keys of a Cairn cluster';
