-- Users, and the texts that lead to one: ids, mail addresses and phone numbers,
-- in the form in which they are compared.

create table app_user (
    org bytea not null,
    id bytea not null,
    email text collate "C",
    phone_number text collate "C",
    name text collate "C",
    version bigint not null,
    created_at bigint not null,
    updated_at bigint not null,
    shape bigint not null,
    document text collate "C" not null,
    primary key (org, id)
);
create index app_user_by_email on app_user (email, org, id) where email is not null;
create index app_user_by_phone_number on app_user (phone_number, org, id)
    where phone_number is not null;
create index app_user_by_name on app_user (name, org, id) where name is not null;

create table user_alias (
    org bytea not null,
    alias text collate "C" not null,
    holder bytea not null,
    primary key (org, alias)
);

-- What a run said of its user, and what it has to say about that.
alter table run add column user_given text collate "C", add column warnings text collate "C";
