DROP TABLE history;
ALTER TABLE question DROP COLUMN closed_at;
