-- Users, and the texts that lead to one: ids, mail addresses and phone numbers,
-- in the form in which they are compared.

create table app_user (
    org blob not null,
    id blob not null,
    email text,
    phone_number text,
    name text,
    version integer not null,
    created_at integer not null,
    updated_at integer not null,
    shape integer not null,
    document text not null,
    primary key (org, id)
) strict, without rowid;
create index app_user_by_email on app_user (org, email, id) where email is not null;
create index app_user_by_phone_number on app_user (org, phone_number, id)
    where phone_number is not null;
create index app_user_by_name on app_user (org, name, id) where name is not null;

create table user_alias (
    org blob not null,
    alias text not null,
    holder blob not null,
    primary key (org, alias)
) strict, without rowid;

-- What a run said of its user, and what it has to say about that.
alter table run add column user_given text;
alter table run add column warnings text;
