DROP TABLE account;
DROP TABLE entry;
DROP TABLE counter;
