-- What compose.yaml's PostgreSQL runs once, when its volume is new: the owner of the database, who is no superuser, and a
-- superuser whom nobody can log in as over the network.
\getenv password LEDGER_OWNER_PASSWORD
CREATE ROLE ledger_owner LOGIN NOSUPERUSER NOCREATEDB CREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE ledger OWNER ledger_owner;
ALTER ROLE CURRENT_USER PASSWORD NULL;
