-- CHECK, NOT NULL, generated columns, triggers, partitions, views.
CREATE FOREIGN TABLE p (id int OPTIONS (key '1'), name text NOT NULL, age int CHECK (age >= 0), twice int GENERATED ALWAYS AS (age * 2) STORED,
    kind text DEFAULT 'person') SERVER cairn OPTIONS (prefix 'c/p/', format 'json');
INSERT INTO p (id, name, age) VALUES (1, 'Ann', 30) RETURNING *;
INSERT INTO p (id, name, age) VALUES (2, NULL, 30);
INSERT INTO p (id, name, age) VALUES (2, 'Bob', -1);
UPDATE p SET age = -1 WHERE id = 1;
UPDATE p SET name = NULL WHERE id = 1;
UPDATE p SET age = 31 WHERE id = 1 RETURNING *;
SELECT * FROM p;
COPY p (id, name, age) FROM stdin;
3	Eve	-5
\.
-- Triggers.
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% % % old % new %', TG_WHEN, TG_OP, TG_LEVEL, CASE WHEN TG_OP <> 'INSERT' THEN OLD.name END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.name END;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    IF TG_WHEN = 'BEFORE' THEN NEW.name := NEW.name || '*'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON p FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON p FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO p (id, name, age) VALUES (2, 'Bob', 1);
UPDATE p SET age = 2 WHERE id = 2;
DELETE FROM p WHERE id = 2;
SELECT id, name FROM p;
DROP TRIGGER a ON p;
DROP TRIGGER b ON p;
-- A view with a check option.
CREATE VIEW adults AS SELECT * FROM p WHERE age >= 18 WITH CHECK OPTION;
INSERT INTO adults (id, name, age) VALUES (3, 'Kid', 5);
INSERT INTO adults (id, name, age) VALUES (3, 'Old', 50);
UPDATE adults SET age = 10 WHERE id = 3;
SELECT id, age FROM adults ORDER BY id;
DROP VIEW adults;
-- Partitions: routed rows, and the bound of each.
CREATE TABLE parts (id int, part text, v text) PARTITION BY LIST (part);
CREATE FOREIGN TABLE part_a PARTITION OF parts FOR VALUES IN ('a') SERVER cairn OPTIONS (prefix 'c/a/', format 'json');
ALTER FOREIGN TABLE part_a ALTER COLUMN id OPTIONS (ADD key '1');
CREATE TABLE part_b PARTITION OF parts FOR VALUES IN ('b');
INSERT INTO parts VALUES (1, 'a', 'x'), (2, 'b', 'y'), (3, 'a', 'z');
INSERT INTO part_a VALUES (4, 'b', 'x');
SELECT tableoid::regclass, * FROM parts ORDER BY id;
UPDATE parts SET v = v || '!' WHERE id IN (1, 2);
UPDATE parts SET part = 'b' WHERE id = 1;
UPDATE parts SET part = 'a' WHERE id = 2;
DELETE FROM parts WHERE id = 3 RETURNING tableoid::regclass, *;
SELECT tableoid::regclass, * FROM parts ORDER BY id;
INSERT INTO parts VALUES (1, 'a', 'dup');
INSERT INTO parts VALUES (9, 'a', 'x') ON CONFLICT DO NOTHING;
COPY parts FROM stdin;
5	a	copied
6	b	copied
\.
SELECT tableoid::regclass, * FROM parts WHERE id > 4 ORDER BY id;
DELETE FROM parts;
-- Dropped and added columns.
ALTER FOREIGN TABLE p DROP COLUMN kind;
ALTER FOREIGN TABLE p ADD COLUMN city text;
UPDATE p SET city = 'Rome' WHERE id = 1;
SELECT * FROM p WHERE id = 1;
CREATE FOREIGN TABLE raw_p (key text, value text) SERVER cairn OPTIONS (prefix 'c/p/');
SELECT value FROM raw_p WHERE key = '1';
DELETE FROM p;
DROP FOREIGN TABLE p, raw_p;
DROP TABLE parts;
