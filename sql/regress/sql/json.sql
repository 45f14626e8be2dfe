-- The json format: key columns are the path, the others members of one object.
CREATE FOREIGN TABLE users (id bigint OPTIONS (key '1'), name text, email text) SERVER cairn OPTIONS (prefix 'j/users/', format 'json');
CREATE FOREIGN TABLE files (key text COLLATE "C", value text) SERVER cairn OPTIONS (prefix 'j/');
SET client_min_messages = warning;
INSERT INTO users VALUES (42, 'Ann "A"', 'ann@x'), (7, 'Bob', NULL), (-1, NULL, NULL), (9223372036854775807, E'line\nbreak', 'ü');
SELECT * FROM files;
SELECT * FROM users ORDER BY id;
SELECT plan($$ SELECT * FROM users WHERE id = 42 $$);
SELECT plan($$ SELECT * FROM users WHERE id IN (42, 7, 5) $$);
SELECT plan($$ SELECT * FROM users WHERE id = 42::smallint $$);
SELECT plan($$ SELECT * FROM users WHERE id > 5 ORDER BY id $$);
SELECT * FROM users WHERE id IN (42, 7, 5);
SELECT * FROM users WHERE id > 5 ORDER BY id;
-- Members that are no columns stay, and the order of all.
INSERT INTO files VALUES ('users/1', E' { "city" : "Rome" , "name":"old", "tags":[1, {"a":null}],"n":1.50 }\n\n');
UPDATE users SET email = 'new@x', name = 'new' WHERE id = 1;
SELECT value FROM files WHERE key = 'users/1';
UPDATE users SET name = NULL WHERE id = 1;
SELECT value FROM files WHERE key = 'users/1';
UPDATE users SET id = 2 WHERE id = 1;
SELECT key, value FROM files WHERE key IN ('users/1', 'users/2');
DELETE FROM users WHERE id = 2 RETURNING *;
INSERT INTO users VALUES (42, 'again');
-- Keys that are no rows: deeper ones are skipped, others are errors, never doubles.
INSERT INTO files VALUES ('users/7/photo', 'x');
SELECT count(*) FROM users;
INSERT INTO files VALUES ('users/007', '{}');
SELECT count(*) FROM users;
SELECT count(*) FROM users WHERE id = 7;
UPDATE files SET key = 'users/x' WHERE key = 'users/007';
SELECT count(*) FROM users;
DELETE FROM files WHERE key IN ('users/x', 'users/7/photo');
INSERT INTO files VALUES ('users/3', '[1]');
SELECT * FROM users WHERE id = 3;
SELECT id FROM users WHERE id = 3;
UPDATE files SET value = '{"name":' WHERE key = 'users/3';
SELECT * FROM users WHERE id = 3;
UPDATE files SET value = '{"name": 5, "email": {"a": [1, 2]}}' WHERE key = 'users/3';
SELECT * FROM users WHERE id = 3;
UPDATE files SET value = '{"name": null, "name": "last wins"}' WHERE key = 'users/3';
SELECT * FROM users WHERE id = 3;
UPDATE files SET value = '' WHERE key = 'users/3';
SELECT * FROM users WHERE id = 3;
-- Several key columns; leading ones are a prefix.
CREATE FOREIGN TABLE orders (customer text OPTIONS (key '1'), line int, day date OPTIONS (key '2'), total numeric) SERVER cairn
    OPTIONS (prefix 'j/orders/', format 'json');
INSERT INTO orders VALUES ('a', 1, '2026-01-02', 1.50), ('a', 2, '2026-01-03', 12345678901234567890.123), ('a/b', 3, '2026-01-02', NULL),
    ('', 4, '2026-01-02', 0), ('.', 5, '2026-01-02', 0), ('..', 6, '2026-01-02', 0), ('100%', 7, '2026-01-02', 0), (E'\t', 8, '2026-01-02', 0),
    ('ab', 9, '2026-01-02', 0);
SELECT key, value FROM files WHERE key LIKE 'orders/%' ORDER BY key;
SELECT * FROM orders ORDER BY line;
SELECT plan($$ SELECT * FROM orders WHERE customer = 'a' $$);
SELECT plan($$ SELECT * FROM orders WHERE customer = 'a/b' AND day = '2026-01-02' $$);
SELECT plan($$ SELECT * FROM orders WHERE customer IN ('a', 'ab') AND day = '2026-01-02' $$);
SELECT plan($$ SELECT * FROM orders WHERE customer IN ('a', 'ab') AND day IN ('2026-01-02', '2026-01-03') $$);
SELECT plan($$ SELECT * FROM orders WHERE customer LIKE 'a%' $$);
SELECT plan($$ SELECT * FROM orders WHERE day = '2026-01-02' $$);
SELECT plan($$ SELECT * FROM orders WHERE customer IS NULL $$);
SELECT * FROM orders WHERE customer = 'a' ORDER BY day;
SELECT * FROM orders WHERE customer = 'a/b' AND day = '2026-01-02';
SELECT * FROM orders WHERE customer IN ('a', 'ab') AND day = '2026-01-02';
SELECT * FROM orders WHERE customer = '';
SELECT line FROM orders WHERE customer IN ('.', '..', '100%', E'\t', '') ORDER BY line;
INSERT INTO orders VALUES ('a', 1, '2026-01-02', 2);
INSERT INTO orders (line, day) VALUES (1, '2026-01-02');
-- Every type of key, there and back.
CREATE FOREIGN TABLE all_keys (b boolean OPTIONS (key '1'), u uuid OPTIONS (key '2'), t timestamptz OPTIONS (key '3'), y bytea OPTIONS (key '4'),
    s smallint OPTIONS (key '5'), i int OPTIONS (key '6')) SERVER cairn OPTIONS (prefix 'j/all/', format 'json');
INSERT INTO all_keys VALUES (true, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '2026-11-20 22:44:41.5+01', '\x00ff', -3, 4),
    (false, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-11-20 00:00:00+00', '', 0, 0);
SELECT key FROM files WHERE key LIKE 'all/%';
SELECT * FROM all_keys WHERE b AND s = -3;
SELECT count(*) FROM all_keys WHERE u = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' AND b = true AND t = '2026-11-20 21:44:41.5+00' AND y = '\x00ff'
    AND s = -3 AND i = 4::bigint;
INSERT INTO all_keys VALUES (true, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'infinity', '', 1, 1);
-- Every kind of member; the writer does not look at the session's settings.
CREATE TYPE pair AS (x int, y text);
CREATE FOREIGN TABLE members (id int OPTIONS (key '1'), b boolean, i int, f float8, n numeric, t text, c char(4), d date, ts timestamp, tz timestamptz,
    iv interval, y bytea, u uuid, j json, jb jsonb, a int[], p pair, e text[] OPTIONS (field 'renamed')) SERVER cairn
    OPTIONS (prefix 'j/members/', format 'json');
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
SET extra_float_digits = -3;
SET bytea_output = 'escape';
SET intervalstyle = 'iso_8601';
INSERT INTO members VALUES (1, true, -1, 0.1 + 0.2::float8, 1.10, 'x', 'ab', '2026-01-02', '2026-01-02 03:04:05', '2026-01-02 03:04:05.25+09', '1 day 02:00',
    '\x00ff', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"k": 1}', '{"k":  2}', '{1,NULL,3}', (1, 'z'), '{"a b",c}');
INSERT INTO members (id) VALUES (2);
RESET timezone;
RESET datestyle;
RESET extra_float_digits;
RESET bytea_output;
RESET intervalstyle;
SELECT value FROM files WHERE key LIKE 'members/%';
\x
SELECT * FROM members;
\x
UPDATE members SET f = 'NaN', a = '{}', p = NULL WHERE id = 2;
SELECT f, a, p FROM members WHERE id = 2;
-- Attributes of the record by role.
CREATE FOREIGN TABLE versioned (id bigint OPTIONS (key '1'), name text, v bigint OPTIONS (role 'version'), bytes int OPTIONS (role 'size')) SERVER cairn
    OPTIONS (prefix 'j/users/', format 'json');
SELECT id, name, v > 0, bytes FROM versioned WHERE id = 7;
DELETE FROM files;
DROP FOREIGN TABLE users, files, orders, all_keys, members, versioned;
DROP TYPE pair;
