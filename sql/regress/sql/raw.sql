-- The raw format: keys and values as they are.
CREATE FOREIGN TABLE kv (key text COLLATE "C" NOT NULL, value text, version bigint, modified_at timestamptz, expires_at timestamptz, size int)
    SERVER cairn OPTIONS (prefix 'raw/');
CREATE FOREIGN TABLE kb (k bytea OPTIONS (role 'key'), v bytea OPTIONS (role 'value'), n bigint OPTIONS (role 'size'))
    SERVER cairn OPTIONS (prefix 'raw/');
CREATE FOREIGN TABLE keys_only (key text) SERVER cairn OPTIONS (prefix 'raw/');
INSERT INTO kv (key, value) VALUES ('b', 'two'), ('a', 'one'), ('c', ''), ('ü', 'Übung');
SELECT key, value, version > 0 AS versioned, modified_at > '2020-01-01' AS dated, expires_at, size FROM kv;
SELECT * FROM keys_only;
SELECT count(*) FROM kv;
SELECT n, v FROM kb WHERE k = 'b';
UPDATE kv SET value = upper(value) WHERE key <> 'c' RETURNING key, value, size, version;
SELECT key, value FROM kv;
UPDATE kv SET key = 'z' WHERE key = 'a';
UPDATE keys_only SET key = 'y' WHERE key = 'z';
SELECT key, value FROM kv;
DELETE FROM kv WHERE key IN ('y', 'nothing') RETURNING key, value;
SELECT key, value FROM kv;
INSERT INTO keys_only VALUES ('k');
SELECT key, value = '' AS is_empty, size FROM kv WHERE key = 'k';
-- A duplicate, a NULL, an empty key, a long one.
INSERT INTO kv (key, value) VALUES ('b', 'again');
INSERT INTO kv (key, value) VALUES ('n1', 'x'), ('b', 'again');
INSERT INTO kv (key, value) VALUES ('n2', 'x'), ('n2', 'y');
INSERT INTO kv (key, value) VALUES (NULL, 'x');
INSERT INTO keys_only VALUES (NULL);
INSERT INTO kv (key, value) VALUES ('n', NULL);
UPDATE kv SET value = NULL WHERE key = 'b';
UPDATE kv SET key = 'c' WHERE key = 'b';
INSERT INTO kv (key, value) VALUES (repeat('x', 508), 'x');
SELECT count(*) FROM kv WHERE key = repeat('x', 508);
SELECT count(*) FROM kv WHERE key = '';
SELECT key FROM kv WHERE key LIKE 'n%';
CREATE FOREIGN TABLE everything (key text, value text) SERVER cairn;
INSERT INTO everything VALUES ('', 'x');
SELECT * FROM everything WHERE key = '';
-- Columns that only the cluster sets.
INSERT INTO kv (key, version) VALUES ('v', 1);
INSERT INTO kv (key, value, expires_at) VALUES ('v', 'x', '2099-01-01');
UPDATE kv SET version = 1 WHERE key = 'b';
UPDATE kv SET modified_at = now() WHERE key = 'b';
UPDATE kv SET expires_at = now() WHERE key = 'b';
-- Compare and set.
UPDATE kv SET value = 'set' WHERE key = 'b' AND version = 0;
SELECT version AS seen FROM kv WHERE key = 'b' \gset
UPDATE kv SET value = 'set' WHERE key = 'b' AND version = :seen;
SELECT value, version > :seen AS grown FROM kv WHERE key = 'b';
-- Bytes that are no text.
INSERT INTO kb VALUES ('\xff00', '\x00ff'), ('bad', '\xc3');
SELECT k, v FROM kb WHERE k >= '\xf0';
SELECT * FROM kv WHERE key = 'bad';
SELECT key FROM kv WHERE key = 'bad';
SELECT key FROM kv;
UPDATE kb SET v = 'good' WHERE k = 'bad';
SELECT key, value FROM kv WHERE key = 'bad' AND size = 4;
INSERT INTO kb VALUES ('zero', '\x6100');
SELECT value FROM kv WHERE key = 'zero';
-- jsonb and varchar, domains.
CREATE DOMAIN short AS text CHECK (length(value) < 5);
CREATE FOREIGN TABLE doc (key varchar(20), value jsonb) SERVER cairn OPTIONS (prefix 'rawdoc/');
CREATE FOREIGN TABLE dom (key short, value short) SERVER cairn OPTIONS (prefix 'rawdom/');
INSERT INTO doc VALUES ('a', '{"x": [1, 2.50]}');
SELECT key, value->'x' FROM doc WHERE key = 'a';
UPDATE doc SET value = value || '{"y": null}';
SELECT * FROM doc;
INSERT INTO dom VALUES ('a', 'long text');
INSERT INTO dom VALUES ('a', 'ok');
SELECT * FROM dom WHERE key = 'a';
SELECT v FROM kb WHERE k = '../rawdom/a';
CREATE FOREIGN TABLE docb (key text, value bytea) SERVER cairn OPTIONS (prefix 'rawdoc/');
UPDATE docb SET value = '{"x"';
SELECT * FROM doc;
SELECT key FROM doc;
-- Refused clearly.
INSERT INTO kv (key, value) VALUES ('q', 'x') ON CONFLICT DO NOTHING;
INSERT INTO kv (key, value) VALUES ('q', 'x') ON CONFLICT (key) DO NOTHING;
TRUNCATE kv;
SELECT key FROM kv WHERE key = 'b' FOR UPDATE;
IMPORT FOREIGN SCHEMA "raw/" FROM SERVER cairn INTO public;
-- COPY, in and out.
COPY docb (key, value) FROM stdin;
c1	\\x31
c2	\\x32
\.
COPY (SELECT * FROM docb WHERE key LIKE 'c%') TO stdout;
COPY docb (key, value) FROM stdin;
c3	\\x31
c2	\\x32
\.
SELECT count(*) FROM docb WHERE key >= 'c' COLLATE "C";
DELETE FROM docb;
DELETE FROM kb;
DELETE FROM dom;
DROP FOREIGN TABLE kv, kb, keys_only, everything, doc, dom, docb;
DROP DOMAIN short;
