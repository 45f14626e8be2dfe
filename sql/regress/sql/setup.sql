-- What the other files use. Each works below a prefix of its own, in an empty cluster.
\getenv endpoints CAIRN_ENDPOINTS
CREATE EXTENSION cairn_fdw;
CREATE SERVER cairn FOREIGN DATA WRAPPER cairn_fdw OPTIONS (endpoints :'endpoints');
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query;
END $$;
