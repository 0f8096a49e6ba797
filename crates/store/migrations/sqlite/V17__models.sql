-- What of a conversation is more than text: images, calls of tools, their results.

alter table message add column chat text;

-- What a run asks of its model beside its input, and what is known of the answer beside
-- its text.

alter table run add column asked text;
alter table run add column said text;
