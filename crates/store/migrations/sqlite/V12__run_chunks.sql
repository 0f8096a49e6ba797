-- What a model has said so far in a run that has not ended, in pieces. The write
-- that ends the run folds them into its reply, and deletes them.

create table run_chunk (
    org blob not null,
    run blob not null,
    attempt integer not null,
    byte_offset integer not null,
    text text not null,
    primary key (org, run, attempt, byte_offset)
) strict, without rowid;
