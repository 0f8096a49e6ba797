-- What a model has said so far in a run that has not ended, in pieces. The write
-- that ends the run folds them into its reply, and deletes them.

create table run_chunk (
    org bytea not null,
    run bytea not null,
    attempt bigint not null,
    byte_offset bigint not null,
    text text collate "C" not null,
    primary key (org, run, attempt, byte_offset)
);
