DROP TABLE vote;
DROP TABLE choice;
DROP TABLE question;
