-- Writes wait for the commit; rollbacks leave nothing; own writes are visible to later commands.
CREATE FOREIGN TABLE kv (key text COLLATE "C" NOT NULL, value text, version bigint) SERVER cairn OPTIONS (prefix 't/');
CREATE FOREIGN TABLE kv2 (key text COLLATE "C" NOT NULL, value text) SERVER cairn OPTIONS (prefix 't/');
INSERT INTO kv VALUES ('a', '1');
INSERT INTO kv VALUES ('b', '2'), ('c', '3');
INSERT INTO kv VALUES ('d', '4'), ('e', '5');
BEGIN;
INSERT INTO kv VALUES ('aa', 'new');
UPDATE kv SET value = value || '!' WHERE key IN ('b', 'aa');
DELETE FROM kv WHERE key = 'c';
SELECT key, value, version IS NULL AS own FROM kv;
SELECT key FROM kv ORDER BY key DESC;
SELECT key, value FROM kv WHERE key IN ('aa', 'b', 'c', 'd');
SELECT key, value FROM kv WHERE key = 'c';
SELECT key, value FROM kv WHERE key > 'aa' AND key < 'e';
SELECT key, value FROM kv ORDER BY key DESC LIMIT 2;
SELECT count(*) FROM kv2;
EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM kv WHERE key = 'aa';
ROLLBACK;
SELECT key, value FROM kv;
BEGIN;
INSERT INTO kv VALUES ('aa', 'new');
UPDATE kv SET value = value || '!' WHERE key IN ('b', 'aa');
DELETE FROM kv WHERE key = 'c';
INSERT INTO kv VALUES ('c', 'reborn');
INSERT INTO kv VALUES ('tmp', 'x');
DELETE FROM kv WHERE key = 'tmp';
COMMIT;
SELECT key, value, version IS NULL AS own FROM kv;
-- ROLLBACK TO and nested levels.
BEGIN;
UPDATE kv SET value = 'l0' WHERE key = 'a';
SAVEPOINT one;
UPDATE kv SET value = 'l1' WHERE key = 'a';
INSERT INTO kv VALUES ('s1', 'x');
SAVEPOINT two;
UPDATE kv SET value = 'l2' WHERE key = 'a';
DELETE FROM kv WHERE key IN ('s1', 'b');
SELECT key, value FROM kv;
ROLLBACK TO two;
SELECT key, value FROM kv;
RELEASE two;
ROLLBACK TO one;
SELECT key, value FROM kv;
SAVEPOINT three;
INSERT INTO kv VALUES ('s3', 'kept');
RELEASE three;
RELEASE one;
COMMIT;
SELECT key, value FROM kv;
DELETE FROM kv WHERE key = 's3';
-- A released savepoint belongs to the outer level.
BEGIN;
SAVEPOINT outer_one;
SAVEPOINT inner_one;
INSERT INTO kv VALUES ('r', 'x');
RELEASE inner_one;
ROLLBACK TO outer_one;
COMMIT;
SELECT count(*) FROM kv WHERE key = 'r';
-- Duplicates show at the statement inside a block.
BEGIN;
INSERT INTO kv VALUES ('f', 'x'), ('a', 'dup');
ROLLBACK;
BEGIN;
INSERT INTO kv VALUES ('f', 'x');
INSERT INTO kv VALUES ('f', 'y');
ROLLBACK;
BEGIN;
DELETE FROM kv WHERE key = 'a';
INSERT INTO kv VALUES ('a', 'other');
UPDATE kv SET key = 'b' WHERE key = 'a';
ROLLBACK;
SELECT key, value FROM kv;
-- plpgsql: exception blocks.
DO $$
DECLARE
    caught int := 0;
BEGIN
    FOR i IN 1..20 LOOP
        BEGIN
            INSERT INTO kv VALUES ('p' || lpad((i % 10)::text, 2, '0'), i::text);
        EXCEPTION WHEN unique_violation THEN
            caught := caught + 1;
        END;
    END LOOP;
    BEGIN
        DELETE FROM kv;
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        caught := caught + 100;
    END;
    RAISE NOTICE 'caught %', caught;
END $$;
SELECT count(*), min(value), max(value) FROM kv WHERE key LIKE 'p%';
DELETE FROM kv WHERE key LIKE 'p%';
-- A command does not see its own writes.
INSERT INTO kv SELECT key || '+', value FROM kv;
SELECT key FROM kv;
UPDATE kv SET key = 'z' || key;
SELECT key FROM kv;
UPDATE kv SET key = substr(key, 2);
DELETE FROM kv WHERE key LIKE '%+' RETURNING key;
WITH moved AS (DELETE FROM kv WHERE key = 'aa' RETURNING value) INSERT INTO kv SELECT 'moved', value FROM moved;
SELECT key, value FROM kv;
-- Moving rows onto each other.
BEGIN;
UPDATE kv SET key = CASE key WHEN 'a' THEN 'b' ELSE 'a' END WHERE key IN ('a', 'b');
ROLLBACK;
BEGIN;
UPDATE kv SET key = chr(ascii(key) - 1) WHERE key BETWEEN 'b' AND 'c' AND length(key) = 1;
ROLLBACK;
BEGIN;
DELETE FROM kv WHERE key = 'a';
UPDATE kv SET key = chr(ascii(key) - 1) WHERE key BETWEEN 'b' AND 'd' AND length(key) = 1;
SELECT key, value FROM kv;
COMMIT;
SELECT key, value FROM kv;
-- Joins in UPDATE and DELETE; a row is changed once.
CREATE TABLE changes (k text, v text);
INSERT INTO changes VALUES ('a', 'first'), ('a', 'second'), ('b', 'third'), ('none', 'x');
UPDATE kv SET value = v FROM changes WHERE k = key AND v <> 'second';
UPDATE kv SET value = v FROM changes WHERE k = key AND k = 'a' AND v LIKE '%d' RETURNING key, value, v;
WITH twice AS (UPDATE kv SET value = 'once' FROM changes WHERE k = key AND k = 'a' RETURNING key) SELECT count(*) FROM twice;
SELECT key, value FROM kv WHERE key IN (SELECT k FROM changes) ORDER BY key;
DELETE FROM kv USING changes WHERE k = key AND v = 'third' RETURNING key, v;
SELECT key, value FROM kv;
-- Cursors see the state at their declaration.
BEGIN;
DECLARE walk CURSOR FOR SELECT key, value FROM kv;
FETCH 1 FROM walk;
INSERT INTO kv VALUES ('aaa', 'late');
UPDATE kv SET value = 'later' WHERE key = 'c';
FETCH 10 FROM walk;
DECLARE walk2 CURSOR FOR SELECT key, value FROM kv;
FETCH 10 FROM walk2;
ROLLBACK;
BEGIN;
INSERT INTO kv VALUES ('held', 'x');
DECLARE held CURSOR WITH HOLD FOR SELECT key FROM kv WHERE key >= 'c';
COMMIT;
FETCH 10 FROM held;
CLOSE held;
DELETE FROM kv WHERE key = 'held';
-- Isolation levels, read-only transactions, two-phase commit, parallel plans.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM kv;
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO kv VALUES ('ser', 'x');
SELECT count(*) FROM kv;
ROLLBACK;
ALTER SERVER cairn OPTIONS (ADD isolation 'downgrade');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) > 0 FROM kv;
ROLLBACK;
ALTER SERVER cairn OPTIONS (DROP isolation);
BEGIN READ ONLY;
SELECT count(*) > 0 FROM kv;
DELETE FROM kv;
ROLLBACK;
BEGIN;
INSERT INTO kv VALUES ('prepared', 'x');
PREPARE TRANSACTION 'x';
ROLLBACK;
SELECT count(*) FROM kv;
-- The bound on what a transaction writes.
ALTER SERVER cairn OPTIONS (ADD write_bytes_max '64kB');
DISCARD ALL;
BEGIN;
INSERT INTO kv SELECT 'big' || i, repeat('x', 1000) FROM generate_series(1, 100) i;
ROLLBACK;
ALTER SERVER cairn OPTIONS (DROP write_bytes_max);
SELECT count(*) FROM kv WHERE key LIKE 'big%';
DELETE FROM kv;
DROP FOREIGN TABLE kv, kv2;
DROP TABLE changes;
